import { expect, test } from "vitest";
import { heatColour } from "./heat_colours";

const lightness = (weight: number) => {
  const [red, green, blue] = heatColour(weight);
  return 0.21 * red + 0.72 * green + 0.07 * blue;
};

test("no weight is cold and a full weight is warm", () => {
  const [coldRed, , coldBlue] = heatColour(0);
  const [warmRed, , warmBlue] = heatColour(1);
  expect(coldBlue).toBeGreaterThan(coldRed * 2);
  expect(warmRed).toBeGreaterThan(warmBlue * 2);
});

test("from a half on every colour is warm", () => {
  for (let weight = 0.5; weight <= 1; weight += 0.05) {
    const [red, , blue] = heatColour(weight);
    expect(red).toBeGreaterThan(blue * 1.5);
  }
});

test("a greater weight is never darker", () => {
  for (let weight = 0.01; weight <= 1; weight += 0.01) {
    expect(lightness(weight)).toBeGreaterThan(lightness(weight - 0.01));
  }
});

test("what is no weight is clamped", () => {
  expect(heatColour(-1)).toEqual(heatColour(0));
  expect(heatColour(NaN)).toEqual(heatColour(0));
  expect(heatColour(7)).toEqual(heatColour(1));
});
