/** The colours of the heat map: how much a joint moves each vertex. */

/** Red, green, blue in sRGB, 0 to 1. */
export type Colour = readonly [number, number, number];

// From a cold slate blue, which is no part of the body's own colours, to a glowing yellow. The
// lightness grows all the way, so that the map also reads without telling red from green.
const STOPS: readonly (readonly [weight: number, colour: Colour])[] = [
  [0, [0.2, 0.27, 0.46]],
  [0.25, [0.45, 0.27, 0.6]],
  [0.5, [0.83, 0.3, 0.42]],
  [0.75, [0.95, 0.47, 0.16]],
  [1, [1, 0.86, 0.32]],
];

/** The colour of a skinning weight. Weights outside 0 to 1, and no number at all, are clamped. */
export function heatColour(weight: number): Colour {
  const clamped = weight > 0 ? Math.min(weight, 1) : 0;
  for (let i = 1; i < STOPS.length; i++) {
    const [low, cold] = STOPS[i - 1]!;
    const [high, warm] = STOPS[i]!;
    if (clamped > high) continue;
    const share = (clamped - low) / (high - low);
    return [0, 1, 2].map((c) => cold[c]! + (warm[c]! - cold[c]!) * share) as unknown as Colour;
  }
  return STOPS[STOPS.length - 1]![1];
}
