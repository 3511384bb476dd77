/**
 * A movement that shows every weight: each chain swings within what its part of a body can do.
 *
 * What a joint is comes from its name, in the words of VRM, Mixamo, Biped and others; where the
 * name says nothing, from how the bones lie. Axes are in the rest pose's world space. The root and
 * the hips stay where they are.
 */

import { Vector3 } from "three";
import type { Joint, Skeleton, Vector } from "./skeleton";
import { branchOf, counterpartName, sideOf } from "./skeleton_edits";

/**
 * A joint's turn about an axis, radians: to both sides of the rest pose, or from it to the
 * amplitude and back where a limb folds one way only. phase: how far it lags, radians of a period.
 */
export interface Swing {
  readonly id: number;
  readonly axis: Vector;
  readonly amplitude: number;
  readonly oneWay: boolean;
  readonly phase: number;
}

const PERIOD_SECONDS = 3;
// From the rest pose into the movement.
const EASE_SECONDS = 1;

export function angleAt({ amplitude, oneWay, phase }: Swing, seconds: number): number {
  const turn = (2 * Math.PI * seconds) / PERIOD_SECONDS - phase;
  const wave = oneWay ? (1 - Math.cos(turn)) / 2 : Math.sin(turn);
  return amplitude * wave * Math.min(1, seconds / EASE_SECONDS);
}

/** Unit vectors; left is the body's own. */
interface Body {
  left: Vector3;
  up: Vector3;
  front: Vector3;
}

/**
 * degrees: the amplitude. towards: where the bone's tail goes at a positive angle; side is 1 on
 * the body's left and -1 on its right. folds: the bend of the rest pose says more. lag: radians
 * behind the joint above. chain: degrees that all joints of a chain share.
 */
interface Motion {
  degrees: number;
  oneWay?: boolean;
  towards: (body: Body, bone: Vector3, side: number) => Vector3;
  folds?: boolean;
  lag?: number;
  chain?: number;
}

const toFront: Motion["towards"] = ({ front }) => front;
const toBack: Motion["towards"] = ({ front }) => front.clone().negate();
const toLeft: Motion["towards"] = ({ left }) => left;
const upwards: Motion["towards"] = ({ up }) => up;
const downwards: Motion["towards"] = ({ up }) => up.clone().negate();
// An arm that is spread goes up and down, one that hangs to the front and back.
const acrossArm: Motion["towards"] = ({ up, front }, bone) => (bone.dot(up) > -0.6 ? up : front);
// Palms look down on spread arms and to the body on hanging ones.
const toPalm: Motion["towards"] = ({ left, up }, _, side) => left.clone().multiplyScalar(-side).sub(up);

const MOTIONS = {
  upperLeg: { degrees: 25, towards: toFront },
  lowerLeg: { degrees: 55, oneWay: true, towards: toBack, folds: true, lag: 1.25 * Math.PI },
  foot: { degrees: 12, towards: upwards },
  toes: { degrees: 20, oneWay: true, towards: upwards },
  shoulder: { degrees: 5, towards: upwards },
  upperArm: { degrees: 30, towards: acrossArm },
  lowerArm: { degrees: 60, oneWay: true, towards: toFront, folds: true },
  hand: { degrees: 20, towards: toPalm },
  finger: { degrees: 40, oneWay: true, towards: toPalm, lag: 0.25 },
  thumb: { degrees: 15, oneWay: true, towards: toPalm, lag: 0.25 },
  spine: { degrees: 5, towards: toLeft, lag: 0.3, chain: 15 },
  neck: { degrees: 7, towards: toFront, lag: 0.3, chain: 25 },
  head: { degrees: 10, towards: toFront, lag: 0.3 },
  jaw: { degrees: 12, oneWay: true, towards: downwards },
  ear: { degrees: 12, towards: toFront, lag: 0.6, chain: 40 },
  wing: { degrees: 25, towards: upwards, lag: 0.5, chain: 60 },
  tail: { degrees: 14, towards: toLeft, lag: 0.6, chain: 90 },
  // A leg of an animal: it swings where it starts, and folds where it is bent.
  limb: { degrees: 20, towards: toFront },
  bend: { degrees: 25, oneWay: true, towards: toBack, folds: true },
  straight: { degrees: 8, towards: toFront },
  // What the name does not tell.
  trunk: { degrees: 4, towards: toLeft, lag: 0.3, chain: 12 },
  chain: { degrees: 12, towards: toLeft, lag: 0.5, chain: 60 },
} satisfies Record<string, Motion>;

type Part = keyof typeof MOTIONS | "still";

// The first that fits a name's words. "leg" and "arm" are told by what they hang on.
const NAMES: readonly (readonly [RegExp, Part | "leg" | "arm"])[] = [
  [/ (twist|roll|eye|eyes|eyelid|root|hips|pelvis|armature) /, "still"],
  [/ (spine|chest|torso|abdomen|waist|belly) /, "spine"],
  [/ thumb /, "thumb"],
  [/ (index|middle|ring|little|pinky|finger|fingers|metacarpal) /, "finger"],
  [/ (toe|toes|ball) /, "toes"],
  [/ (foot|ankle|paw|hoof) /, "foot"],
  [/ (lower ?leg|calf|shin|knee) /, "lowerLeg"],
  [/ (up ?leg|upper ?leg|thigh|hip) /, "upperLeg"],
  [/ (fore ?arm|lower ?arm|elbow) /, "lowerArm"],
  [/ (up ?arm|upper ?arm) /, "upperArm"],
  [/ (hand|wrist|palm) /, "hand"],
  [/ (shoulder|clavicle|collar|scapula) /, "shoulder"],
  [/ neck /, "neck"],
  [/ (ear|ears) /, "ear"],
  [/ (jaw|chin) /, "jaw"],
  [/ (tail|ponytail|hair|braid|mane|antenna|tentacle|tongue|cape|cloth|skirt|ribbon) /, "tail"],
  [/ (wing|fin|flipper) /, "wing"],
  [/ head /, "head"],
  [/ leg /, "leg"],
  [/ arm /, "arm"],
];
// Bends smaller than this are chance, radians.
const CLEAR_BEND = (12 * Math.PI) / 180;
// No limb folds together further than this.
const CLOSED = (145 * Math.PI) / 180;

export function swing(skeleton: Skeleton): Swing[] {
  const body = bodyOf(skeleton);
  const byId = new Map(skeleton.map((joint) => [joint.id, joint]));
  const parts = partsOf(skeleton, byId);
  const phases = new Map<number, number>();
  return skeleton.flatMap((joint) => {
    const part = parts.get(joint.id)!;
    const parent = byId.get(joint.parent ?? -1);
    if (part === "still" || !parent) {
      return [];
    }
    const motion: Motion = MOTIONS[part];
    const above = isCentre(parts.get(parent.id)!) && !isCentre(part) ? undefined : phases.get(parent.id);
    const phase = above === undefined ? firstPhase(joint, part) : above + (motion.lag ?? 0.5);
    phases.set(joint.id, phase);
    const bend = bendOf(parent, joint);
    const shared = motion.chain ? motion.chain / lengthOfChain(skeleton, parts, joint) : motion.degrees;
    const free = motion.oneWay ? CLOSED - bend.angle : Math.PI;
    return {
      id: joint.id,
      axis: axisOf(body, joint, motion, bend, sideSign(body, skeleton[0]!, joint)).toArray(),
      amplitude: Math.max(0, Math.min(radians(motion.degrees), radians(shared), free)),
      oneWay: motion.oneWay ?? false,
      phase,
    };
  });
}

/** The body's directions by where the left joints are from the right ones. */
function bodyOf(skeleton: Skeleton): Body {
  const heads = new Map(skeleton.map((joint) => [joint.name, joint.head]));
  const left = new Vector3();
  for (const { name, head } of skeleton) {
    const other = sideOf(name) === "left" ? heads.get(counterpartName(name)!) : undefined;
    if (other) {
      left.add(new Vector3(head[0] - other[0], 0, head[2] - other[2]));
    }
  }
  left.normalize();
  if (left.length() === 0) {
    left.set(1, 0, 0);
  }
  const up = new Vector3(0, 1, 0);
  return { left, up, front: left.clone().cross(up) };
}

function partsOf(skeleton: Skeleton, byId: ReadonlyMap<number, Joint>): Map<number, Part> {
  const parts = new Map<number, Part>();
  for (const joint of skeleton) {
    const parent = byId.get(joint.parent ?? -1);
    parts.set(joint.id, partOf(skeleton, joint, parent, parts.get(parent?.id ?? -1)));
  }
  return parts;
}

function partOf(skeleton: Skeleton, joint: Joint, parent: Joint | undefined, above: Part | undefined): Part {
  const words = wordsOf(joint.name);
  const named = NAMES.find(([pattern]) => pattern.test(words))?.[1];
  const inLimb = above === "limb" || above === "bend" || above === "straight" || above === "chain";
  const bent = inLimb && bendOf(parent!, joint).angle > CLEAR_BEND;
  if (named === "upperLeg" && sideOf(joint.name) === null) {
    return "still"; // "hip" in the middle
  }
  if (named === "leg") {
    return above === "upperLeg" ? "lowerLeg" : !inLimb ? "limb" : bent ? "bend" : "straight";
  }
  if (named === "arm") {
    return above === "upperArm" ? "lowerArm" : "upperArm";
  }
  if (named) {
    return named;
  }
  return bent ? "bend" : carriesMost(skeleton, joint) ? "trunk" : "chain";
}

/** " left fore arm " for mixamorig:LeftForeArm_2; a letter for a side is a word too. */
function wordsOf(name: string): string {
  const words = name
    .replace(/^.*:/, "")
    .replace(/([a-z])([A-Z])/g, "$1 $2")
    .replace(/[^A-Za-z]+/g, " ")
    .toLowerCase();
  return ` ${words.replace(/\b(?:left|right|l|r)\b/g, "").replace(/ +/g, " ").trim()} `;
}

/** Whether nearly half of the skeleton hangs on a joint in branches, as on the spine of any body. */
function carriesMost(skeleton: Skeleton, joint: Joint): boolean {
  const below = branchOf(skeleton, joint.id).slice(1);
  const forks = new Set(below.map(({ parent }) => parent)).size < below.length;
  return forks && below.length > 0.45 * skeleton.length;
}

/** The bone above a joint, how far its own is turned from that, and about what. */
interface Bend {
  above: Vector3;
  angle: number;
  axis: Vector3;
}

function bendOf(parent: Joint, joint: Joint): Bend {
  const above = between(parent.head, joint.head);
  const bone = between(joint.head, joint.tail);
  const axis = above.clone().cross(bone).normalize();
  return { above, angle: axis.length() > 0 ? above.angleTo(bone) : 0, axis };
}

function axisOf(body: Body, joint: Joint, motion: Motion, bend: Bend, side: number): Vector3 {
  const bone = between(joint.head, joint.tail).normalize();
  const way = motion.towards(body, bone, side).clone().normalize();
  // Where the rest pose is bent clearly, it folds on; but no knee forward and no elbow back.
  const sound = motion === MOTIONS.bend || bend.above.clone().cross(way).dot(bend.axis) >= 0;
  if (motion.folds && bend.angle > CLEAR_BEND && sound) {
    return bend.axis;
  }
  const axis = bone.clone().cross(way);
  for (const other of [body.up, body.front, body.left]) {
    if (axis.length() < 0.2) {
      axis.crossVectors(bone, other);
    }
  }
  return axis.length() > 0 ? axis.normalize() : body.left;
}

/** Joints of one part in a row through a joint. */
function lengthOfChain(skeleton: Skeleton, parts: ReadonlyMap<number, Part>, joint: Joint): number {
  const part = parts.get(joint.id);
  const below = (id: number): number =>
    Math.max(0, ...skeleton.filter((each) => each.parent === id && parts.get(each.id) === part).map((each) => 1 + below(each.id)));
  const above = (id: number | null): number => {
    const parent = skeleton.find((each) => each.id === id);
    return parent && parts.get(parent.id) === part ? 1 + above(parent.parent) : 0;
  };
  return above(joint.parent) + 1 + below(joint.id);
}

/** What limbs start from, each with a phase of its own. */
function isCentre(part: Part): boolean {
  return ["still", "spine", "neck", "head", "trunk"].includes(part);
}

/** As one walks: left against right, arms against legs, the hind legs of an animal too. */
function firstPhase(joint: Joint, part: Part): number {
  const right = sideOf(joint.name) === "right" ? 1 : 0;
  const arm = part === "shoulder" || part === "upperArm" ? 1 : 0;
  const words = wordsOf(joint.name);
  const rank = words.includes(" back ") || words.includes(" hind ") ? 1 : Number(/leg_(\d+)/.exec(joint.name)?.[1] ?? 0);
  const walks = arm === 1 || ["upperLeg", "limb"].includes(part);
  return walks ? Math.PI * ((right + arm + rank) % 2) : 0;
}

/** 1 on the body's left, -1 on its right. */
function sideSign(body: Body, root: Joint, joint: Joint): number {
  const side = sideOf(joint.name);
  if (side !== null) {
    return side === "left" ? 1 : -1;
  }
  return between(root.head, joint.head).dot(body.left) < 0 ? -1 : 1;
}

function between(from: Vector, to: Vector): Vector3 {
  return new Vector3(to[0] - from[0], to[1] - from[1], to[2] - from[2]);
}

function radians(degrees: number): number {
  return (degrees * Math.PI) / 180;
}
