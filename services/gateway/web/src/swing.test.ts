import { Vector3 } from "three";
import { describe, expect, test } from "vitest";
import type { Joint, Skeleton, Vector } from "./skeleton";
import { type Swing, angleAt, swing } from "./swing";

type Bones = Record<string, { parent?: string; head: Vector; tail: Vector }>;

function skeletonOf(bones: Bones): Skeleton {
  const names = Object.keys(bones);
  return Object.entries(bones).map(([name, { parent, head, tail }], id): Joint => {
    return { id, name, parent: parent === undefined ? null : names.indexOf(parent), head, tail };
  });
}

function swingOf(skeleton: Skeleton, name: string): Swing {
  return swing(skeleton).find(({ id }) => skeleton[id]!.name === name)!;
}

/** Where the far end of a bone goes at first when it turns by a positive angle: a unit vector. */
function way(skeleton: Skeleton, name: string): Vector3 {
  const { id, axis } = swingOf(skeleton, name);
  const { head, tail } = skeleton[id]!;
  return new Vector3(...axis).cross(new Vector3(...tail).sub(new Vector3(...head)).normalize());
}

const degrees = (radians: number): number => (radians * 180) / Math.PI;

/** Spread arms, facing +Z; one side's limbs and the trunk. name: what a rig calls each part. */
function human(name: (part: string, side: string) => string, facing = 1): Skeleton {
  const bones: Bones = {
    [name("hips", "")]: { head: [0, 1, 0], tail: [0, 1.2, 0] },
    [name("spine", "")]: { parent: name("hips", ""), head: [0, 1.2, 0], tail: [0, 1.5, 0] },
  };
  for (const [side, x] of [["left", facing], ["right", -facing]] as const) {
    const chain = (from: string, parts: [string, Vector][], start: Vector): void => {
      let [parent, head] = [name(from, ""), start];
      for (const [part, tail] of parts) {
        bones[name(part, side)] = { parent, head, tail };
        [parent, head] = [name(part, side), tail];
      }
    };
    chain("spine", [
      ["upper arm", [0.4 * x, 1.4, 0]],
      ["lower arm", [0.7 * x, 1.4, 0]],
      ["hand", [0.8 * x, 1.4, 0]],
      ["finger", [0.9 * x, 1.4, 0]],
    ], [0.2 * x, 1.4, 0]);
    chain("hips", [
      ["upper leg", [0.1 * x, 0.5, 0]],
      ["lower leg", [0.1 * x, 0.1, -0.02 * facing]],
      ["foot", [0.1 * x, 0, 0.1 * facing]],
    ], [0.1 * x, 0.95, 0]);
  }
  return skeletonOf(bones);
}

const capital = (word: string): string => word.charAt(0).toUpperCase() + word.slice(1);
const STYLES: Record<string, (part: string, side: string) => string> = {
  "the engines'": (part, side) => [side, part.replace("finger", "index proximal")].join(" ").trim().replaceAll(" ", "_"),
  VRM: (part, side) => (side + ` ${part.replace("finger", "index proximal")}`).trim().replace(/ (.)/g, (_, letter: string) => letter.toUpperCase()),
  Mixamo: (part, side) => {
    const words = { "upper arm": "Arm", "lower arm": "ForeArm", "upper leg": "UpLeg", "lower leg": "Leg", finger: "HandIndex1" };
    return `mixamorig:${capital(side)}${words[part as keyof typeof words] ?? capital(part)}`;
  },
  Biped: (part, side) => {
    const words = { hips: "Pelvis", "upper arm": "UpperArm", "lower arm": "Forearm", "upper leg": "Thigh", "lower leg": "Calf", finger: "Finger1" };
    return ["Bip01", side.charAt(0).toUpperCase(), words[part as keyof typeof words] ?? capital(part)].filter(Boolean).join(" ");
  },
  Blender: (part, side) => part.replace(" ", "_").replace("lower_arm", "forearm").replace("lower_leg", "shin") + (side && `.${side.charAt(0).toUpperCase()}`),
};

describe.each(Object.entries(STYLES))("a human with %s names", (_, name) => {
  test.each([1, -1])("moves as humans do, facing %d", (facing) => {
    const body = human(name, facing);
    for (const [side, out] of [["left", facing], ["right", -facing]] as const) {
      expect(way(body, name("lower leg", side)).z * facing).toBeLessThan(-0.9);
      expect(way(body, name("lower arm", side)).z * facing).toBeGreaterThan(0.9);
      expect(way(body, name("upper leg", side)).z * facing).toBeGreaterThan(0.9);
      expect(way(body, name("upper arm", side)).y).toBeGreaterThan(0.9);
      expect(way(body, name("finger", side)).y).toBeLessThan(-0.9);
      expect(way(body, name("finger", side)).x * out).toBeCloseTo(0);
      for (const part of ["lower leg", "lower arm", "finger"]) {
        expect(swingOf(body, name(part, side)).oneWay).toBe(true);
      }
      for (const part of ["upper leg", "upper arm", "foot", "hand"]) {
        expect(swingOf(body, name(part, side)).oneWay).toBe(false);
      }
    }
    expect(degrees(swingOf(body, name("spine", "")).amplitude)).toBeCloseTo(5);
    expect(swingOf(body, name("hips", ""))).toBeUndefined();
  });
});

describe("axes", () => {
  const bodies = Object.values(STYLES).map((name) => human(name));

  test("are across their bones, of unit length", () => {
    for (const body of bodies) {
      for (const { id, axis } of swing(body)) {
        const bone = new Vector3(...body[id]!.tail).sub(new Vector3(...body[id]!.head));
        expect(new Vector3(...axis).length()).toBeCloseTo(1);
        expect(new Vector3(...axis).dot(bone)).toBeCloseTo(0);
      }
    }
  });

  test("are there for bones without a length", () => {
    const body = bodies[0]!.map((joint) => ({ ...joint, tail: joint.head }));
    for (const { axis } of swing(body)) {
      expect(new Vector3(...axis).length()).toBeCloseTo(1);
    }
  });

  test("of an elbow follow the bend it has, and it bends no further than it can", () => {
    const bent = human(STYLES["the engines'"]!).map((joint) =>
      joint.name === "left_lower_arm" ? { ...joint, tail: [0.3, 1.4, 0.25] as Vector } : joint,
    );
    const turn = way(bent, "left_lower_arm");
    expect([turn.x < -0.9, Math.abs(turn.y) < 1e-9]).toEqual([true, true]);
    const { amplitude } = swingOf(bent, "left_lower_arm");
    expect(degrees(amplitude)).toBeGreaterThan(10);
    expect(degrees(amplitude)).toBeLessThan(40);
  });
});

describe("limits", () => {
  const body = human(STYLES["the engines'"]!);
  const changed = (name: string, head: Vector, tail: Vector): Skeleton =>
    body.map((joint) => (joint.name === name ? { ...joint, head, tail } : joint));

  test("hold for a knee that was modelled bent the wrong way", () => {
    expect(way(changed("left_lower_leg", [0.1, 0.5, 0], [0.1, 0.1, 0.2]), "left_lower_leg").z).toBeLessThan(-0.7);
  });

  test.each([["left", 1], ["right", -1]] as const)("let the %s hand's fingers curl to the body where it hangs", (side, x) => {
    const name = `${side}_index_proximal`;
    expect(way(changed(name, [0.3 * x, 0.8, 0], [0.3 * x, 0.7, 0]), name).x * x).toBeLessThan(-0.9);
  });
});

describe("an animal's leg", () => {
  const leg = skeletonOf({
    root: { head: [0, 1, 0], tail: [0, 1, 0.5] },
    leg_back_left_1: { parent: "root", head: [0.1, 1, 0], tail: [0.1, 0.7, 0.05] },
    leg_back_left_2: { parent: "leg_back_left_1", head: [0.1, 0.7, 0.05], tail: [0.1, 0.4, -0.15] },
    leg_back_left_3: { parent: "leg_back_left_2", head: [0.1, 0.4, -0.15], tail: [0.1, 0.1, -0.1] },
  });

  test("folds at each joint to the side it is bent to", () => {
    expect(way(leg, "leg_back_left_2").z).toBeLessThan(-0.7);
    expect(way(leg, "leg_back_left_3").z).toBeGreaterThan(0.7);
    expect(swingOf(leg, "leg_back_left_2").oneWay).toBe(true);
    expect(swingOf(leg, "leg_back_left_1").oneWay).toBe(false);
  });
});

describe("a chain", () => {
  const chain = (name: string, count: number): Skeleton => {
    const bones: Bones = { root: { head: [0, 0, 0], tail: [0, 1, 0] } };
    for (let number = 1; number <= count; number++) {
      const parent = number === 1 ? "root" : `${name}_${number - 1}`;
      bones[`${name}_${number}`] = { parent, head: [0, 0, -number], tail: [0, 0, -number - 1] };
    }
    return skeletonOf(bones);
  };

  test.each(["tail", "hair", "whatever"])("named %s waves from its start to its end", (name) => {
    const phases = swing(chain(name, 5)).map(({ phase }) => phase);
    expect(phases).toHaveLength(5);
    phases.slice(1).forEach((phase, index) => expect(phase).toBeGreaterThan(phases[index]!));
  });

  test("turns less at each joint the more it has", () => {
    const total = (name: string, count: number): number =>
      degrees(swing(chain(name, count)).reduce((sum, { amplitude }) => sum + amplitude, 0));
    expect(total("tail", 3)).toBeCloseTo(42);
    expect(total("tail", 30)).toBeCloseTo(90);
    expect(total("spine", 12)).toBeCloseTo(15);
  });
});

describe("the angle", () => {
  const both: Swing = { id: 1, axis: [1, 0, 0], amplitude: 0.5, oneWay: false, phase: 1 };
  const once: Swing = { ...both, oneWay: true };
  const times = Array.from({ length: 600 }, (_, index) => index / 50);

  test("is the rest pose's at the start and never beyond the amplitude", () => {
    for (const each of [both, once]) {
      expect(angleAt(each, 0)).toBeCloseTo(0);
      expect(Math.max(...times.map((time) => angleAt(each, time)))).toBeCloseTo(0.5, 2);
    }
    expect(Math.min(...times.map((time) => angleAt(both, time)))).toBeCloseTo(-0.5, 2);
    expect(Math.min(...times.map((time) => angleAt(once, time)))).toBeGreaterThanOrEqual(0);
  });

  test("comes again after a few seconds, without a jump", () => {
    expect(angleAt(both, 4)).toBeCloseTo(angleAt(both, 7));
    times.slice(1).forEach((time, index) => {
      expect(Math.abs(angleAt(both, time) - angleAt(both, times[index]!))).toBeLessThan(0.05);
    });
  });
});

test("left and right legs and arms take turns", () => {
  const body = human(STYLES["the engines'"]!);
  const phase = (name: string): number => swingOf(body, name).phase;
  expect(phase("right_upper_leg") - phase("left_upper_leg")).toBeCloseTo(Math.PI);
  expect(phase("left_upper_arm") - phase("left_upper_leg")).toBeCloseTo(Math.PI);
  expect(phase("right_upper_arm")).toBeCloseTo(phase("left_upper_leg"));
});
