import { Matrix4, Vector3 } from "three";
import { expect, test } from "vitest";
import { boneMatrix, SkeletonOverlay } from "./skeleton_overlay";
import type { Skeleton } from "../skeleton";

const skeleton: Skeleton = [
  { id: 2, name: "hips", parent: null, head: [0, 1, 0], tail: [0, 2, 0] },
  { id: 5, name: "chest", parent: 2, head: [0, 2, 0], tail: [0, 3, 0] },
];

test("a bone reaches from its head to its tail, whatever its direction", () => {
  for (const tail of [new Vector3(0, 5, 0), new Vector3(1, -2, 3), new Vector3(2, 0, 0)]) {
    const head = new Vector3(0.5, 0, 0);
    const matrix = boneMatrix(head, tail, new Matrix4());
    expect(new Vector3(0, 0, 0).applyMatrix4(matrix).distanceTo(head)).toBeLessThan(1e-6);
    expect(new Vector3(0, 1, 0).applyMatrix4(matrix).distanceTo(tail)).toBeLessThan(1e-6);
    expect(matrix.determinant()).toBeGreaterThan(0);
  }
});

test("a bone without length is nothing, and no NaN", () => {
  const matrix = boneMatrix(new Vector3(1, 1, 1), new Vector3(1, 1, 1), new Matrix4());
  expect(matrix.elements.every(Number.isFinite)).toBe(true);
});

test("a joint without a movement of its own goes with its parent", () => {
  const overlay = new SkeletonOverlay();
  overlay.set(skeleton);
  overlay.place((name) => (name === "hips" ? new Matrix4().makeTranslation(4, 0, 0) : null));
  expect(overlay.head(5)?.toArray()).toEqual([4, 2, 0]);
});
