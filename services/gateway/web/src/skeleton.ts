/** A skeleton as the page edits it. World space of the GLB file: metres, right-handed, +Y up. */

export type Vector = readonly [number, number, number];

/**
 * One joint. id stays the same through edits; parent is an id, null for the root alone.
 * head is where the joint turns, tail the far end of its bone.
 */
export interface Joint {
  readonly id: number;
  readonly name: string;
  readonly parent: number | null;
  readonly head: Vector;
  readonly tail: Vector;
}

/** The root first, parents before their children. */
export type Skeleton = readonly Joint[];
