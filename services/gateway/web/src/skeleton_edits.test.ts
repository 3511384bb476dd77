import { describe, expect, test } from "vitest";
import type { Joint, Skeleton, Vector } from "./skeleton";
import { counterpartName, mirrored, moved, movedWithChildren, outsideOf, renamed, sideOf, withChild, withoutLeaf } from "./skeleton_edits";

const ROOT: Joint = { id: 0, name: "hips", parent: null, head: [0.1, 1, 0], tail: [0.1, 1.5, 0] };
const CHEST: Joint = { id: 1, name: "chest", parent: 0, head: [0.1, 1.5, 0], tail: [0.1, 2, 0] };
const ARM: Joint = { id: 2, name: "left_arm", parent: 1, head: [0.3, 1.8, 0], tail: [0.6, 1.8, 0.1] };
const HAND: Joint = { id: 3, name: "left_hand", parent: 2, head: [0.6, 1.8, 0.1], tail: [0.8, 1.8, 0.1] };
const HEAD: Joint = { id: 4, name: "head", parent: 1, head: [0.1, 2, 0], tail: [0.1, 2.3, 0] };
const BODY: Skeleton = [ROOT, CHEST, ARM, HAND, HEAD];

function named(skeleton: Skeleton, name: string): Joint {
  return skeleton.find((joint) => joint.name === name)!;
}

function close(actual: Vector, expected: Vector): void {
  actual.forEach((value, axis) => expect(value).toBeCloseTo(expected[axis]!, 9));
}

describe("moving a joint", () => {
  test("leaves its children where they are and takes the tail that met it along", () => {
    const after = moved(BODY, 2, [0.4, 1.9, 0]);
    expect(named(after, "left_arm")).toEqual({ ...ARM, head: [0.4, 1.9, 0] });
    expect(after.filter((joint) => joint.id !== 2)).toEqual(BODY.filter((joint) => joint.id !== 2));
    expect(named(moved(BODY, 3, [0.7, 1.8, 0]), "left_arm").tail).toEqual([0.7, 1.8, 0]);
  });

  test("moves the tip of a leaf along", () => {
    close(named(moved(BODY, 3, [0.7, 1.8, 0]), "left_hand").tail, [0.9, 1.8, 0]);
  });

  test("moves all below it where that is wanted", () => {
    const after = movedWithChildren(BODY, 2, [0.3, 1.9, 0]);
    close(named(after, "left_hand").head, [0.6, 1.9, 0.1]);
    close(named(after, "left_hand").tail, [0.8, 1.9, 0.1]);
    expect(named(after, "left_arm").tail).toEqual(named(after, "left_hand").head);
    expect(named(after, "head")).toEqual(HEAD);
  });

  test("does not change the skeleton that was", () => {
    const copy = structuredClone(BODY);
    movedWithChildren(BODY, 0, [0, 0, 0]);
    expect(BODY).toEqual(copy);
  });
});

describe("a name", () => {
  test("is given without the space around it", () => {
    expect(named(renamed(BODY, 2, "  Arm.L "), "Arm.L").id).toBe(2);
    expect(renamed(BODY, 2, "left_arm")).toEqual(BODY);
  });

  test.each([
    [" ", /needs a name/],
    ["head", /"head" already/],
    ["ü".repeat(32), /at most 63 bytes/],
  ])("is refused with a reason: %s", (name, reason) => {
    expect(() => renamed(BODY, 2, name)).toThrow(reason);
  });

  test("may fill 63 bytes", () => {
    expect(renamed(BODY, 2, `${"ü".repeat(31)}a`)[2]!.name).toHaveLength(32);
  });
});

describe("a new joint", () => {
  test("carries on the bone of a leaf", () => {
    const { skeleton, id } = withChild(BODY, 3);
    const child = skeleton.find((joint) => joint.id === id)!;
    expect(child).toMatchObject({ name: "left_hand_1", parent: 3, head: HAND.tail });
    close(child.tail, [0.9, 1.8, 0.1]);
    expect(skeleton.map((joint) => joint.name)).toEqual(["hips", "chest", "left_arm", "left_hand", "left_hand_1", "head"]);
  });

  test("branches off where other joints carry on, and keeps the others' names and places free", () => {
    const once = withChild(BODY, 1);
    const twice = withChild(once.skeleton, 1);
    expect(named(twice.skeleton, "chest").tail).toEqual(CHEST.tail);
    expect(new Set(twice.skeleton.map((joint) => joint.name)).size).toBe(7);
    expect(new Set(twice.skeleton.map((joint) => String(joint.head))).size).toBe(7);
    expect(twice.id).not.toBe(once.id);
  });

  test("has a length below a bone that has none", () => {
    const points = BODY.map((joint) => ({ ...joint, tail: joint.head }));
    for (const parent of [1, 3]) {
      const { skeleton, id } = withChild(points, parent);
      const { head, tail } = skeleton.find((joint) => joint.id === id)!;
      expect(Math.hypot(...head.map((value, axis) => tail[axis]! - value))).toBeGreaterThan(0.01);
    }
  });

  test("has a name that fits below a joint with the longest name", () => {
    const long = renamed(BODY, 3, "a".repeat(63));
    const { skeleton, id } = withChild(long, 3);
    expect(skeleton.find((joint) => joint.id === id)!.name).toBe(`${"a".repeat(61)}_1`);
  });
});

describe("deleting a joint", () => {
  test("takes a leaf; its parent's tail stays, or goes to the nearest child that is left", () => {
    expect(withoutLeaf(BODY, 3)).toEqual([ROOT, CHEST, ARM, HEAD]);
    expect(named(withoutLeaf(BODY, 4), "chest").tail).toEqual(ARM.head);
  });

  test("is refused for the root and where joints hang below", () => {
    expect(() => withoutLeaf([ROOT], 0)).toThrow(/root cannot be deleted/);
    expect(() => withoutLeaf(BODY, 2)).toThrow(/"left_arm" has joints below it/);
  });
});

describe("mirroring", () => {
  test("adds the other side's chain where there is none", () => {
    const after = mirrored(BODY, 2)!;
    expect(after.map((joint) => joint.name)).toEqual([
      ...["hips", "chest", "left_arm", "left_hand", "head", "right_arm", "right_hand"],
    ]);
    const [arm, hand] = [named(after, "right_arm"), named(after, "right_hand")];
    expect([arm.parent, hand.parent]).toEqual([1, arm.id]);
    close(arm.head, [-0.1, 1.8, 0]);
    close(hand.head, [-0.4, 1.8, 0.1]);
    close(hand.tail, [-0.6, 1.8, 0.1]);
    expect(arm.tail).toEqual(hand.head);
    expect(named(after, "chest").tail).toEqual(CHEST.tail);
  });

  test("moves the other side's joints where they are, and back again", () => {
    const both = mirrored(BODY, 2)!;
    const changed = moved(both, named(both, "right_hand").id, [-0.5, 1.7, 0]);
    const after = mirrored(changed, named(both, "right_arm").id)!;
    expect(after).toHaveLength(both.length);
    close(named(after, "left_hand").head, [0.7, 1.7, 0]);
    expect(named(after, "left_arm").tail).toEqual(named(after, "left_hand").head);
  });

  test("starts further up where the other side lacks that too", () => {
    const after = mirrored(BODY, 3)!;
    expect(named(after, "right_hand").parent).toBe(named(after, "right_arm").id);
  });

  test("names what has no side of its own after the side it hangs on, once", () => {
    const ring = withChild(BODY, 3);
    const once = mirrored(renamed(ring.skeleton, ring.id, "ring"), 2)!;
    expect(named(once, "ring_right").parent).toBe(named(once, "right_hand").id);
    expect(mirrored(once, 2)).toEqual(once);
  });

  test("has nothing to do in the middle", () => {
    expect(mirrored(BODY, 1)).toBeNull();
  });
});

describe("the other side's name", () => {
  test.each([
    ["left_upper_arm", "right_upper_arm"],
    ["leg_front_left_1", "leg_front_right_1"],
    ["mixamorig:LeftForeArm", "mixamorig:RightForeArm"],
    ["leftUpperArm", "rightUpperArm"],
    ["J_Bip_L_UpperArm", "J_Bip_R_UpperArm"],
    ["Bip01 L Calf", "Bip01 R Calf"],
    ["upper_arm.R.001", "upper_arm.L.001"],
    ["Arm_l", "Arm_r"],
    ["L_Arm", "R_Arm"],
    ["lThigh", "rThigh"],
    ["ARM_LEFT", "ARM_RIGHT"],
    ["ear_left", "ear_right"],
  ])("of %s is %s, and back", (name, other) => {
    expect(counterpartName(name)).toBe(other);
    expect(counterpartName(other)).toBe(name);
    expect(sideOf(name)).not.toBe(sideOf(other));
  });

  test.each(["spine", "upright", "leftover", "L", "bright_eye", "tail_3", "Hair", "lower_lip", "Root"])(
    "of %s is none",
    (name) => {
      expect(counterpartName(name)).toBeNull();
      expect(sideOf(name)).toBeNull();
    },
  );
});

test("a joint far outside the model is found", () => {
  const [low, high]: Vector[] = [[-1, 0, -0.5], [1, 2, 0.5]];
  expect(outsideOf(BODY, low!, high!)).toBeUndefined();
  expect(outsideOf(moved(BODY, HEAD.id, [0.1, 2.19, 0]), low!, high!)).toBeUndefined();
  expect(outsideOf(moved(BODY, HEAD.id, [0.1, 2.21, 0]), low!, high!)?.name).toBe("head");
  expect(outsideOf(moved(BODY, HAND.id, [0.6, 1.8, -0.71]), low!, high!)?.name).toBe("left_hand");
});
