/** Undo and redo over values that never change. What is recorded is one step. */

export interface History<T> {
  readonly past: readonly T[];
  readonly present: T;
  readonly future: readonly T[];
}

export function start<T>(value: T): History<T> {
  return { past: [], present: value, future: [] };
}

/** A new present; what had been undone is gone. The same value again is no step. */
export function record<T>(history: History<T>, value: T): History<T> {
  if (value === history.present) {
    return history;
  }
  return { past: [...history.past, history.present], present: value, future: [] };
}

export function canUndo(history: History<unknown>): boolean {
  return history.past.length > 0;
}

export function canRedo(history: History<unknown>): boolean {
  return history.future.length > 0;
}

/** One step back; the same history where there is none. */
export function undo<T>({ past, present, future }: History<T>): History<T> {
  return past.length === 0
    ? { past, present, future }
    : { past: past.slice(0, -1), present: past.at(-1)!, future: [present, ...future] };
}

/** One step forward again; the same history where there is none. */
export function redo<T>({ past, present, future }: History<T>): History<T> {
  return future.length === 0
    ? { past, present, future }
    : { past: [...past, present], present: future[0]!, future: future.slice(1) };
}
