import { expect, test } from "vitest";
import { pickBone, pickJoint, type ScreenBone } from "./picking";

const bones: ScreenBone[] = [
  { id: 4, head: [100, 100], tail: [200, 100], depth: 5 },
  { id: 7, head: [200, 100], tail: [200, 180], depth: 5 },
  { id: 9, head: [201, 101], tail: [260, 100], depth: 2 },
];

test("the nearest joint within the radius is meant", () => {
  expect(pickJoint(bones, 108, 104, 12)).toBe(4);
  expect(pickJoint(bones, 113, 104, 12)).toBeNull();
});

test("of two joints in one place the front one is meant, in either order", () => {
  expect(pickJoint(bones, 199, 100, 12)).toBe(9);
  expect(pickJoint([...bones].reverse(), 199, 100, 12)).toBe(9);
});

test("a bone is met along its whole length and not beyond", () => {
  expect(pickBone(bones, 150, 104, 8)).toBe(4);
  expect(pickBone(bones, 203, 150, 8)).toBe(7);
  expect(pickBone(bones, 80, 100, 8)).toBeNull();
});

test("a bone without length is a point", () => {
  const point: ScreenBone = { id: 1, head: [10, 10], tail: [10, 10], depth: 1 };
  expect(pickBone([point], 12, 10, 8)).toBe(1);
});
