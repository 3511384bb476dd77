/**
 * What a person does to a skeleton, each a function from skeleton to skeleton. Ids, order and what
 * is not named stay as they were. The tail of a joint that has children is always the head of one
 * of them, as in every rig the service reads.
 */

import type { Joint, Skeleton, Vector } from "./skeleton";

// The longest name that Blender keeps, in bytes of UTF-8.
const LONGEST_NAME = 63;
// Joints may lie nearly this share of the model's longest side outside its bounding box: the
// service measures in another precision.
const PADDING = 0.099;

/** A joint's head somewhere else; its children stay, the tip of a leaf goes along. */
export function moved(skeleton: Skeleton, id: number, head: Vector): Skeleton {
  return withHeads(skeleton, new Map([[id, head]]));
}

/** The same for a joint with all that hangs on it. */
export function movedWithChildren(skeleton: Skeleton, id: number, head: Vector): Skeleton {
  const way = minus(head, jointOf(skeleton, id).head);
  const branch = branchOf(skeleton, id);
  return withHeads(skeleton, new Map(branch.map((joint) => [joint.id, plus(joint.head, way)])));
}

/** Throws an Error with a sentence for the user where the name cannot be given. */
export function renamed(skeleton: Skeleton, id: number, name: string): Skeleton {
  const trimmed = name.trim();
  if (trimmed === "") {
    throw new Error("A joint needs a name.");
  }
  if (byteLength(trimmed) > LONGEST_NAME) {
    throw new Error(`The name is too long. A joint's name has at most ${LONGEST_NAME} bytes.`);
  }
  if (skeleton.some((joint) => joint.name === trimmed && joint.id !== id)) {
    throw new Error(`Another joint is named "${trimmed}" already. Choose a different name.`);
  }
  return skeleton.map((joint) => (joint.id === id ? { ...joint, name: trimmed } : joint));
}

/**
 * A new leaf: it carries on the bone of a parent that was a leaf, and branches off to the side
 * from the bone of one that was not, for there it is inside the model.
 */
export function withChild(skeleton: Skeleton, parentId: number): { skeleton: Skeleton; id: number } {
  const parent = jointOf(skeleton, parentId);
  const id = nextId(skeleton);
  const bone = boneOf(skeleton, parent);
  const siblings = childrenOf(skeleton, parentId).length;
  const way = siblings === 0 ? scaled(bone, 0.5) : scaled(sideways(bone), Math.hypot(...bone) / 2);
  const head = siblings === 0 ? parent.tail : plus(parent.head, scaled(bone, 1 / (siblings + 1)));
  const child = { id, name: freeName(skeleton, parent.name), parent: parentId, head, tail: plus(head, way) };
  return { skeleton: inserted(skeleton, child), id };
}

/** Throws an Error with a sentence for the user where the joint must stay. */
export function withoutLeaf(skeleton: Skeleton, id: number): Skeleton {
  const leaf = jointOf(skeleton, id);
  if (leaf.parent === null) {
    throw new Error("The root cannot be deleted.");
  }
  if (childrenOf(skeleton, id).length > 0) {
    throw new Error(`"${leaf.name}" has joints below it. Delete those first.`);
  }
  return withTailsOnChildren(skeleton.filter((joint) => joint.id !== id));
}

/**
 * A joint and all below it copied to the other side of the plane x = the root's x: onto the joints
 * of that side where there are any, else as new ones. Null where the joint belongs to no side.
 */
export function mirrored(skeleton: Skeleton, id: number): Skeleton | null {
  if (sideOf(jointOf(skeleton, id).name) === null) {
    return null;
  }
  const start = firstWithoutCounterpart(skeleton, id);
  const side = otherSide(sideOf(start.name)!);
  const plane = skeleton[0]!.head[0];
  const opposite = ([x, y, z]: Vector): Vector => [2 * plane - x, y, z];
  const target = new Map<number, number>();
  let result = skeleton;
  for (const source of branchOf(skeleton, start.id)) {
    const name = counterpartName(source.name) ?? `${source.name}_${side}`;
    const known = result.find((joint) => joint.name === name);
    target.set(source.id, known?.id ?? nextId(result));
    if (!known) {
      const parent = target.get(source.parent!) ?? sameOnOtherSide(skeleton, source.parent!)!;
      const ends = { head: opposite(source.head), tail: opposite(source.tail) };
      result = inserted(result, { id: nextId(result), name, parent, ...ends });
    }
  }
  const sources = new Map([...target].map(([source, id]) => [id, jointOf(skeleton, source)]));
  result = withHeads(result, new Map([...sources].map(([id, source]) => [id, opposite(source.head)])));
  return withTailsOnChildren(
    result.map((joint) => {
      const source = sources.get(joint.id);
      return source ? { ...joint, tail: opposite(source.tail) } : joint;
    }),
  );
}

/** The same name for the body's other side; null where the name belongs to none. */
export function counterpartName(name: string): string | null {
  const found = SIDE.exec(name);
  if (!found) {
    return null;
  }
  const other = OTHER[found[0].toLowerCase()]!;
  const cased = /^[A-Z]+$/.test(found[0])
    ? other.toUpperCase()
    : /^[A-Z]/.test(found[0])
      ? other[0]!.toUpperCase() + other.slice(1)
      : other;
  return name.slice(0, found.index) + cased + name.slice(found.index + found[0].length);
}

export type Side = "left" | "right";

/** The side of the body a joint's name says it belongs to. */
export function sideOf(name: string): Side | null {
  const found = SIDE.exec(name)?.[0].toLowerCase();
  return found === undefined ? null : found.startsWith("l") ? "left" : "right";
}

const OTHER: Record<string, string> = { left: "right", right: "left", l: "r", r: "l" };
// left_arm, LeftArm, arm.L, L_Arm, "Bip01 L Calf", lThigh; not "leftover", "upright" or "L".
const SIDE = new RegExp(
  [
    "(?<![A-Za-z])(?:left|right)(?![a-z])",
    "(?<![A-Z])(?:Left|Right)(?![a-z])",
    "(?<![A-Za-z])(?:LEFT|RIGHT)(?![A-Za-z])",
    "(?<=[^A-Za-z0-9])[LRlr](?![A-Za-z0-9])",
    "^[LRlr](?=[^A-Za-z0-9])",
    "^[lr](?=[A-Z])",
  ].join("|"),
);

function otherSide(side: Side): Side {
  return side === "left" ? "right" : "left";
}

/** The joint, or the topmost of those above it that the other side lacks too. */
function firstWithoutCounterpart(skeleton: Skeleton, id: number): Joint {
  let joint = jointOf(skeleton, id);
  while (joint.parent !== null && sameOnOtherSide(skeleton, joint.parent) === null) {
    joint = jointOf(skeleton, joint.parent);
  }
  return joint;
}

/** The counterpart of a joint, itself where it belongs to no side, null where there is none. */
function sameOnOtherSide(skeleton: Skeleton, id: number): number | null {
  const name = counterpartName(jointOf(skeleton, id).name);
  return name === null ? id : (skeleton.find((joint) => joint.name === name)?.id ?? null);
}

/** Heads at new places: tails that met them follow, tips of leaves keep their offset. */
function withHeads(skeleton: Skeleton, heads: ReadonlyMap<number, Vector>): Skeleton {
  return skeleton.map((joint) => {
    const head = heads.get(joint.id) ?? joint.head;
    const below = childrenOf(skeleton, joint.id);
    const next = below.find((child) => same(child.head, joint.tail));
    const tail = next
      ? (heads.get(next.id) ?? joint.tail)
      : below.length === 0
        ? plus(head, minus(joint.tail, joint.head))
        : joint.tail;
    return { ...joint, head, tail };
  });
}

function withTailsOnChildren(skeleton: Skeleton): Skeleton {
  return skeleton.map((joint) => {
    const below = childrenOf(skeleton, joint.id);
    if (below.length === 0) {
      return joint;
    }
    const distances = below.map((child) => Math.hypot(...minus(child.head, joint.tail)));
    return { ...joint, tail: below[distances.indexOf(Math.min(...distances))]!.head };
  });
}

function jointOf(skeleton: Skeleton, id: number): Joint {
  const joint = skeleton.find((joint) => joint.id === id);
  if (!joint) {
    throw new Error("That joint is not there any more.");
  }
  return joint;
}

function childrenOf(skeleton: Skeleton, id: number): Skeleton {
  return skeleton.filter((joint) => joint.parent === id);
}

/** A joint and all below it, parents first. */
export function branchOf(skeleton: Skeleton, id: number): Skeleton {
  const inside = new Set([id]);
  return skeleton.filter((joint) => {
    if (joint.parent !== null && inside.has(joint.parent)) {
      inside.add(joint.id);
    }
    return inside.has(joint.id);
  });
}

/** A new joint behind all that hangs on its parent already, where FBX files have it too. */
function inserted(skeleton: Skeleton, joint: Joint): Skeleton {
  const last = branchOf(skeleton, joint.parent!).at(-1)!;
  return skeleton.toSpliced(skeleton.indexOf(last) + 1, 0, joint);
}

function nextId(skeleton: Skeleton): number {
  return Math.max(...skeleton.map((joint) => joint.id)) + 1;
}

/** stem_1, or the next number that no joint has. */
function freeName(skeleton: Skeleton, stem: string): string {
  const taken = new Set(skeleton.map((joint) => joint.name));
  for (let number = 1; ; number++) {
    const ending = `_${number}`;
    const name = shortened(stem, LONGEST_NAME - ending.length) + ending;
    if (!taken.has(name)) {
      return name;
    }
  }
}

function shortened(name: string, bytes: number): string {
  const letters = [...name];
  while (byteLength(letters.join("")) > bytes) {
    letters.pop();
  }
  return letters.join("");
}

function byteLength(text: string): number {
  return new TextEncoder().encode(text).length;
}

/** From head to tail; a tenth of the skeleton's height upwards where they are at one place. */
function boneOf(skeleton: Skeleton, joint: Joint): Vector {
  const bone = minus(joint.tail, joint.head);
  if (Math.hypot(...bone) > 0) {
    return bone;
  }
  const heights = skeleton.map((each) => each.head[1]);
  return [0, (Math.max(...heights) - Math.min(...heights)) / 10 || 0.1, 0];
}

/** A unit vector across a bone, to the front where that is possible. */
function sideways(bone: Vector): Vector {
  const length = Math.hypot(...bone);
  const front: Vector = Math.abs(bone[2]) < 0.9 * length ? [0, 0, 1] : [0, 1, 0];
  const along = (front[1] * bone[1] + front[2] * bone[2]) / length ** 2;
  const across = minus(front, scaled(bone, along));
  return scaled(across, 1 / Math.hypot(...across));
}

function plus(a: Vector, b: Vector): Vector {
  return [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
}

function minus(a: Vector, b: Vector): Vector {
  return [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
}

function scaled(a: Vector, factor: number): Vector {
  return [a[0] * factor, a[1] * factor, a[2] * factor];
}

function same(a: Vector, b: Vector): boolean {
  return a[0] === b[0] && a[1] === b[1] && a[2] === b[2];
}

/**
 * A joint that lies farther outside the model than the service takes, or undefined. low and high
 * are the corners of the model's bounding box.
 */
export function outsideOf(skeleton: Skeleton, low: Vector, high: Vector): Joint | undefined {
  const margin = PADDING * Math.max(...high.map((value, axis) => value - low[axis]!));
  return skeleton.find((joint) =>
    joint.head.some((value, axis) => value < low[axis]! - margin || value > high[axis]! + margin),
  );
}
