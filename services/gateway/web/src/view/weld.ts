/** Corners that lie in the same place are one vertex. */

export interface Weld {
  /** For each corner its vertex. */
  readonly index: Uint32Array;
  /** For each vertex its first corner. */
  readonly corners: Uint32Array;
}

/**
 * Finds the vertices of a triangle soup. positions: x, y, z of each corner.
 *
 * Loaders of OBJ and FBX give every triangle corners of its own; the file had fewer vertices.
 */
export function weld(positions: ArrayLike<number>): Weld {
  const count = Math.floor(positions.length / 3);
  const index = new Uint32Array(count);
  const corners: number[] = [];
  // An open-addressed hash table of vertices: a Map of strings takes ten times as long.
  const size = 2 ** Math.ceil(Math.log2(Math.max(count, 1) * 2));
  const table = new Int32Array(size).fill(-1);
  const bits = new Float32Array(3);
  const words = new Uint32Array(bits.buffer);
  for (let corner = 0; corner < count; corner++) {
    // Adding 0 makes -0 the same place as 0.
    for (let c = 0; c < 3; c++) bits[c] = positions[3 * corner + c]! + 0;
    let slot = Math.imul(words[0]!, 73856093) ^ Math.imul(words[1]!, 19349663) ^ Math.imul(words[2]!, 83492791);
    slot = Math.imul(slot ^ (slot >>> 15), 0x2c1b3c6d);
    slot = (slot ^ (slot >>> 13)) & (size - 1);
    while (table[slot] !== -1 && !samePlace(positions, corners[table[slot]!]!, corner)) slot = (slot + 1) & (size - 1);
    if (table[slot] === -1) {
      table[slot] = corners.length;
      corners.push(corner);
    }
    index[corner] = table[slot]!;
  }
  return { index, corners: Uint32Array.from(corners) };
}

function samePlace(positions: ArrayLike<number>, a: number, b: number): boolean {
  return (
    positions[3 * a] === positions[3 * b] &&
    positions[3 * a + 1] === positions[3 * b + 1] &&
    positions[3 * a + 2] === positions[3 * b + 2]
  );
}
