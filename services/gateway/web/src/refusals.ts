/** What the service refused, for people: its own words, and what to do where they leave that open. */

import type { ApiError } from "./api";

export function explained({ message, code, retryAfter }: ApiError): string {
  if (code === "FILE_NOT_FOUND") {
    const why = "it keeps files for 24 hours after the last visit";
    return `The service no longer has this file: ${why}. Choose the model again.`;
  }
  if (code === "STORAGE_FULL") return `${message} Delete earlier models that are not needed, or try again later.`;
  if (retryAfter !== null && !message.includes("Try again")) return `${message} Try again in ${waiting(retryAfter)}.`;
  return message;
}

function waiting(seconds: number): string {
  const [number, unit] = seconds < 60 ? [seconds, "second"] : [Math.ceil(seconds / 60), "minute"];
  return `${number} ${unit}${number === 1 ? "" : "s"}`;
}
