import { expect, test } from "vitest";
import { weld } from "./weld";

test("two triangles with a common edge have four vertices", () => {
  const { index, corners } = weld([0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 1, 1, 0]);
  expect([...index]).toEqual([0, 1, 2, 2, 1, 3]);
  expect([...corners]).toEqual([0, 1, 2, 5]);
});

test("minus nought is nought", () => {
  const row = (nought: number) => Array.from({ length: 100 }, (_, i) => [i, nought, 1]).flat();
  expect(weld([...row(0), ...row(-0)]).corners).toHaveLength(100);
});

test("a lattice keeps every vertex apart", () => {
  const points: number[] = [];
  for (let i = 0; i < 8000; i++) points.push(i % 20, Math.floor(i / 20) % 20, Math.floor(i / 400));
  expect(weld([...points, ...points]).corners).toHaveLength(8000);
});

test("nothing is nothing", () => {
  expect(weld([]).corners).toHaveLength(0);
});
