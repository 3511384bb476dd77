import { expect, test } from "vitest";
import { fineRatio, nextRatio } from "./sharpness";

test("a graphics card draws the screen's own pixels, at most four to a CSS pixel", () => {
  expect(fineRatio(1280, 720, 1, true)).toBe(1);
  expect(fineRatio(1280, 720, 3, true)).toBe(2);
});

test("without multisampling a small view is drawn larger and a large one is not", () => {
  expect(fineRatio(1280, 720, 1, false)).toBe(2);
  expect(fineRatio(3840, 2160, 1, false)).toBe(1);
});

test("slow frames make the view rougher down to a limit, fast ones finer up to the full", () => {
  let ratio = 2;
  for (let i = 0; i < 20; i++) ratio = nextRatio(ratio, 200, 2);
  expect(ratio).toBeCloseTo(0.6);
  expect(nextRatio(ratio, 40, 2)).toBe(ratio);
  for (let i = 0; i < 20; i++) ratio = nextRatio(ratio, 10, 2);
  expect(ratio).toBe(2);
});
