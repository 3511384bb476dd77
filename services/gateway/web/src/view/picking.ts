/** Which joint a pointer means. Everything here is in CSS pixels on the screen. */

/** A bone on the screen: its joint at the head, and how far that is from the eye. */
export interface ScreenBone {
  readonly id: number;
  readonly head: readonly [x: number, y: number];
  readonly tail: readonly [x: number, y: number];
  readonly depth: number;
}

// Joints which lie this close together on the screen are told apart by depth: the front one wins.
const SAME_PLACE = 2;

/** The joint whose head is nearest to the point and within the radius, or null. */
export function pickJoint(bones: Iterable<ScreenBone>, x: number, y: number, radius: number): number | null {
  let best: ScreenBone | null = null;
  let bestDistance = radius;
  for (const bone of bones) {
    const distance = Math.hypot(bone.head[0] - x, bone.head[1] - y);
    const nearer = distance < bestDistance - SAME_PLACE;
    const inFront = best !== null && distance < bestDistance + SAME_PLACE && bone.depth < best.depth;
    if (distance <= radius && (best === null || nearer || inFront)) {
      best = bone;
      bestDistance = distance;
    }
  }
  return best?.id ?? null;
}

/** The joint whose bone passes nearest to the point and within the radius, or null. */
export function pickBone(bones: Iterable<ScreenBone>, x: number, y: number, radius: number): number | null {
  let best: number | null = null;
  let bestDistance = radius;
  for (const bone of bones) {
    const distance = distanceToSegment(x, y, bone.head, bone.tail);
    if (distance > bestDistance) continue;
    best = bone.id;
    bestDistance = distance;
  }
  return best;
}

function distanceToSegment(x: number, y: number, from: readonly [number, number], to: readonly [number, number]): number {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const along = ((x - from[0]) * dx + (y - from[1]) * dy) / (dx * dx + dy * dy || 1);
  const share = Math.min(Math.max(along, 0), 1);
  return Math.hypot(from[0] + share * dx - x, from[1] + share * dy - y);
}
