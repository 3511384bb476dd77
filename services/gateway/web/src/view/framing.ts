/** Numbers that follow the model's size, from a ring of 1 cm to a castle of 1 km. */

import type { Sphere } from "three";
import type { Vector } from "../skeleton";

/**
 * How far from the origin a camera stands that sees all the points.
 *
 * The points are in the camera's axes: right, up, and towards the eye. fov is the camera's vertical
 * angle in degrees, aspect its width by its height.
 */
export function fitDistance(points: readonly Vector[], fov: number, aspect: number): number {
  const high = Math.tan((fov * Math.PI) / 360);
  const wide = high * aspect;
  return Math.max(...points.map(([x, y, z]) => z + Math.max(Math.abs(x) / wide, Math.abs(y) / high)));
}

/** Whether a view that was made for one ball also shows another well: about as large, and there. */
export function fitsAlike(one: Sphere, other: Sphere): boolean {
  const ratio = one.radius / other.radius;
  return ratio > 0.7 && ratio < 1.4 && one.center.distanceTo(other.center) < 0.5 * one.radius;
}

/** Near and far planes which hold everything within reach of the middle and keep depth exact. */
export function clipPlanes(distance: number, reach: number): { near: number; far: number } {
  const far = distance + reach;
  return { near: Math.max(distance - reach, far / 2000), far };
}

/** The spacing of the floor's lines: 1, 2 or 5 times a power of ten, about a tenth of the size. */
export function gridSpacing(size: number): number {
  const wanted = size / 10;
  const power = 10 ** Math.floor(Math.log10(wanted));
  const factor = [1, 2, 5, 10].find((step) => step * power >= wanted * 0.999) ?? 10;
  return factor * power;
}
