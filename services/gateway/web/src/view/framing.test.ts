import { Sphere, Vector3 } from "three";
import { expect, test } from "vitest";
import { clipPlanes, fitDistance, gridSpacing, fitsAlike } from "./framing";

test("the outermost point touches the edge of the view and no more", () => {
  const distance = fitDistance([[0.1, 2, 0.5], [-3, 0, -1]], 60, 2);
  expect(2 / (distance - 0.5)).toBeCloseTo(Math.tan(Math.PI / 6));
});

test("a narrow view stands farther off than a wide one", () => {
  expect(fitDistance([[1, 1, 0]], 40, 0.5)).toBeCloseTo(2 * fitDistance([[1, 1, 0]], 40, 1));
  expect(fitDistance([[1, 1, 0]], 40, 2)).toBeCloseTo(fitDistance([[1, 1, 0]], 40, 1));
});

test("the planes hold all that is within reach at any size", () => {
  for (const size of [0.01, 1, 1000]) {
    const { near, far } = clipPlanes(3 * size, size);
    expect(near).toBeCloseTo(2 * size);
    expect(far).toBeCloseTo(4 * size);
  }
});

test("within reach the near plane stays in front of the eye", () => {
  const { near, far } = clipPlanes(0.5, 10);
  expect(near).toBeGreaterThan(0);
  expect(far / near).toBeLessThanOrEqual(2001);
});

test("floor lines are round numbers near a tenth of the size", () => {
  expect(gridSpacing(0.01)).toBeCloseTo(0.001, 9);
  expect(gridSpacing(1.8)).toBeCloseTo(0.2, 9);
  expect(gridSpacing(155)).toBeCloseTo(20, 9);
  expect(gridSpacing(1000)).toBeCloseTo(100, 9);
});

test("a view serves a model of another unit or place no more", () => {
  const ball = new Sphere(new Vector3(0, 1, 0), 1);
  expect(fitsAlike(ball, new Sphere(new Vector3(0, 1.01, 0), 1.02))).toBe(true);
  expect(fitsAlike(ball, new Sphere(new Vector3(0, 100, 0), 100))).toBe(false);
  expect(fitsAlike(ball, new Sphere(new Vector3(0, 3, 0), 1))).toBe(false);
});
