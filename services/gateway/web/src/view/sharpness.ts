/** How finely the view is drawn: in full at rest, and in motion as finely as the machine manages. */

// Milliseconds a frame takes: above the first it is drawn rougher, below the second finer.
const SLOW = 55;
const FAST = 24;
const STEP = 0.8;
const ROUGHEST = 0.6;
// Without multisampling edges are made smooth by drawing more pixels than there are, up to so many.
const MOST_PIXELS = 4_000_000;

/** Pixels drawn to a CSS pixel at rest. multisampled: whether the graphics card smooths the edges. */
export function fineRatio(width: number, height: number, devicePixelRatio: number, multisampled: boolean): number {
  const plain = Math.min(devicePixelRatio, 2);
  if (multisampled) return plain;
  return Math.max(plain, Math.min(Math.sqrt(MOST_PIXELS / (width * height)), 2));
}

/** The ratio for the next frame in motion, after one that took so many milliseconds. */
export function nextRatio(ratio: number, milliseconds: number, fine: number): number {
  if (milliseconds > SLOW) return Math.max(ratio * STEP, Math.min(ROUGHEST, fine));
  if (milliseconds < FAST) return Math.min(ratio / STEP, fine);
  return ratio;
}
