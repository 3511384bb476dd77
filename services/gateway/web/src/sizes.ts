/** Numbers for people. */

/** Bytes as "0.8 MB": megabytes of 1024 × 1024 bytes, as the upload's limit counts them. */
export function megabytes(bytes: number): string {
  const size = bytes / 2 ** 20;
  return `${size.toFixed(size < 10 ? 1 : 0)}\u00a0MB`;
}

/** The time between two timestamps of the API, as "12 s" or "2 min 5 s". */
export function duration(from: string, to: string): string {
  const seconds = Math.max(0, Math.round((Date.parse(to) - Date.parse(from)) / 1000));
  if (seconds < 60) return `${seconds}\u00a0s`;
  return `${Math.floor(seconds / 60)}\u00a0min ${seconds % 60}\u00a0s`;
}

export function count(number: number): string {
  return number.toLocaleString("en");
}
