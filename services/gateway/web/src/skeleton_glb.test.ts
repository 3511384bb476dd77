import { Matrix4, type Mesh, Vector3 } from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
import { describe, expect, test } from "vitest";
import { AddedAccessors, type Gltf, type GltfNode, type GltfSkin, accessorNumbers, readGlb, writeGlb } from "./glb";
import { mirrored, moved, renamed, withChild, withoutLeaf } from "./skeleton_edits";
import type { Joint, Skeleton, Vector } from "./skeleton";
import { skeletonOf, withSkeleton } from "./skeleton_glb";

const CORNERS = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 2, 1];

interface SkinParts {
  joints: number[];
  inverses?: Matrix4[];
}

interface RiggedParts {
  nodes: GltfNode[];
  roots: number[];
  skins: SkinParts[];
  /** JOINTS_0 and WEIGHTS_0 of the four vertices of mesh 0; mesh 1 has no weights. */
  joints: number[];
  weights: number[];
  more?: Partial<Gltf>;
}

function rigged({ nodes, roots, skins, joints, weights, more = {} }: RiggedParts): ArrayBuffer {
  const json: Gltf = { asset: { version: "2.0" }, scene: 0, scenes: [{ nodes: roots }], nodes, ...more };
  const added = new AddedAccessors({ json, bin: new Uint8Array() });
  const attributes = {
    POSITION: added.add(new Float32Array(CORNERS), "VEC3"),
    JOINTS_0: added.add(new Uint8Array(joints), "VEC4"),
    WEIGHTS_0: added.add(new Uint8Array(weights), "VEC4", { normalized: true }),
  };
  json.materials = [{ name: "Skin" }];
  const { POSITION } = attributes;
  Object.assign(json.accessors![POSITION]!, { min: [0, 0, 0], max: [1, 2, 1] });
  json.meshes = [{ primitives: [{ attributes }] }, { primitives: [{ attributes: { POSITION } }] }];
  json.skins = skins.map(({ joints, inverses }): GltfSkin => {
    const numbers = inverses?.flatMap((matrix) => matrix.elements);
    return { joints, ...(numbers && { inverseBindMatrices: added.add(new Float32Array(numbers), "MAT4") }) };
  });
  return writeGlb(added.joined());
}

const away = (x: number, y: number, z: number): Matrix4 => new Matrix4().makeTranslation(-x, -y, -z);

/** As the service writes rigs: under an armature, translations only, tails in the extras. */
function ours(): ArrayBuffer {
  return rigged({
    nodes: [
      { name: "Body", mesh: 0, skin: 0 },
      { name: "Armature", children: [2] },
      { name: "hips", translation: [0, 1, 0], extras: { tail: [0, 0.5, 0], kept: true }, children: [3, 5] },
      { name: "left_arm", translation: [0.25, 0.5, 0], extras: { tail: [0.5, 0, 0] }, children: [4] },
      { name: "left_hand", translation: [0.5, 0, 0], extras: { tail: [0, 0, 0.25] } },
      { name: "head", translation: [0, 0.5, 0], extras: { tail: [0, 0.25, 0] } },
    ],
    roots: [0, 1],
    skins: [
      { joints: [2, 3, 4, 5], inverses: [away(0, 1, 0), away(0.25, 1.5, 0), away(0.75, 1.5, 0), away(0, 1.5, 0)] },
    ],
    joints: [0, 1, 0, 0, 1, 2, 0, 0, 3, 2, 1, 0, 3, 0, 0, 0],
    weights: [200, 55, 0, 0, 100, 155, 0, 0, 55, 100, 50, 50, 255, 0, 0, 0],
  });
}

/**
 * A user's: joints turned below an armature in centimetres, with a node between two of them, a
 * shoe that hangs on one, and a pose that is not the bind pose. The body is bound at twice its size.
 */
function users(more: Partial<Gltf> = {}): ArrayBuffer {
  const armature = new Matrix4().makeScale(0.01, 0.01, 0.01);
  const hips = new Matrix4().makeRotationX(-Math.PI / 2).setPosition(0, 100, 0);
  const leg = new Matrix4().makeRotationZ(Math.PI / 3).setPosition(10, 0, -40);
  const worldHips = armature.clone().multiply(hips);
  const worldLeg = worldHips.clone().multiply(leg);
  const bound = new Matrix4().makeScale(2, 2, 2);
  const inverse = (world: Matrix4): Matrix4 => world.clone().invert().multiply(bound);
  return rigged({
    nodes: [
      { name: "Leg_L", matrix: leg.clone().multiply(new Matrix4().makeRotationX(0.5)).toArray(), children: [4] },
      { children: [0], name: "between" },
      { matrix: hips.toArray(), name: "Hips", children: [1] },
      { name: "Armature", scale: [0.01, 0.01, 0.01], children: [2] },
      { name: "Shoe", mesh: 1, translation: [1, 2, 3] },
      { name: "Body", mesh: 0, skin: 0 },
    ],
    roots: [3, 5],
    skins: [{ joints: [0, 2], inverses: [inverse(worldLeg), inverse(worldHips)] }],
    joints: [0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0],
    weights: [200, 55, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 100, 155, 0, 0],
    more,
  });
}

function named(skeleton: Skeleton, name: string): Joint {
  return skeleton.find((joint) => joint.name === name)!;
}

function close(actual: Vector, expected: Vector): void {
  actual.forEach((value, axis) => expect(value).toBeCloseTo(expected[axis]!, 5));
}

/** The same joints in the same order, whatever their ids. */
function expectSame(actual: Skeleton, expected: Skeleton): void {
  expect(namesAndParents(actual)).toEqual(namesAndParents(expected));
  actual.forEach((joint, index) => {
    close(joint.head, expected[index]!.head);
    close(joint.tail, expected[index]!.tail);
  });
}

function namesAndParents(skeleton: Skeleton): (string | null)[][] {
  return skeleton.map(({ name, parent }) => [name, skeleton.find((joint) => joint.id === parent)?.name ?? null]);
}

/** Where three.js shows the vertices of a mesh. */
async function shown(bytes: ArrayBuffer, name: string): Promise<Vector[]> {
  const { scene } = await new GLTFLoader().parseAsync(bytes, "");
  scene.updateMatrixWorld(true);
  const mesh = scene.getObjectByName(name) as Mesh;
  const vertices = [...Array(mesh.geometry.getAttribute("position").count).keys()];
  return vertices.map((vertex) => mesh.localToWorld(mesh.getVertexPosition(vertex, new Vector3())).toArray());
}

function weightsOf(bytes: ArrayBuffer, mesh = 0): Record<string, number>[] {
  const glb = readGlb(bytes);
  const { attributes } = glb.json.meshes![mesh]!.primitives[0]!;
  const [joints, weights] = [accessorNumbers(glb, attributes.JOINTS_0!), accessorNumbers(glb, attributes.WEIGHTS_0!)];
  const node = glb.json.nodes!.find((each) => each.mesh === mesh && each.skin !== undefined)!;
  const names = glb.json.skins![node.skin!]!.joints.map((joint) => glb.json.nodes![joint]!.name!);
  return [0, 4, 8, 12].map((vertex) => {
    const pairs = [0, 1, 2, 3].map((at): [string, number] => [names[joints[vertex + at]!]!, weights[vertex + at]!]);
    const real = pairs.filter(([, weight]) => weight > 0);
    expect(new Set(real.map(([name]) => name)).size).toBe(real.length);
    return Object.fromEntries(real);
  });
}

describe("the skeleton of a file", () => {
  test("has the service's names, order, heads and tails", () => {
    expect(skeletonOf(ours())).toEqual([
      { id: 0, name: "hips", parent: null, head: [0, 1, 0], tail: [0, 1.5, 0] },
      { id: 1, name: "left_arm", parent: 0, head: [0.25, 1.5, 0], tail: [0.75, 1.5, 0] },
      { id: 2, name: "left_hand", parent: 1, head: [0.75, 1.5, 0], tail: [0.75, 1.5, 0.25] },
      { id: 3, name: "head", parent: 0, head: [0, 1.5, 0], tail: [0, 1.75, 0] },
    ]);
  });

  test("is where the bind pose has it, parents first, whatever the nodes do", () => {
    const [hips, leg] = skeletonOf(users())!;
    expect([hips!.name, leg!.name, leg!.parent]).toEqual(["Hips", "Leg_L", 0]);
    close(hips!.head, [0, 1, 0]);
    close(leg!.head, [0.1, 0.6, 0]);
    expect(hips!.tail).toEqual(leg!.head);
    close(leg!.tail, [0.15, 0.4, 0]);
  });

  test("has one root where the file has several, and a name of its own for each joint", () => {
    const bytes = rigged({
      nodes: [
        { name: "a", translation: [1, 0, 0], children: [2] },
        { name: "a", translation: [3, 0, 0] },
        {},
        { mesh: 0, skin: 0 },
      ],
      roots: [0, 1, 3],
      skins: [{ joints: [0, 1, 2] }],
      joints: Array(16).fill(0),
      weights: Array(4).fill([255, 0, 0, 0]).flat(),
    });
    expect(skeletonOf(bytes)!.map(({ name, parent }) => [name, parent])).toEqual([
      ...[["root", null], ["a", 0], ["a_2", 0], ["joint_2", 1]],
    ]);
    const edited = renamed(skeletonOf(bytes)!, 3, "b");
    expectSame(skeletonOf(withSkeleton(bytes, edited))!, edited);
  });

  test("is null where nothing is skinned", () => {
    expect(skeletonOf(writeGlb({ json: { nodes: [{}] }, bin: new Uint8Array() }))).toBeNull();
    expect(() => withSkeleton(writeGlb({ json: {}, bin: new Uint8Array() }), [])).toThrow(/no skeleton/);
  });

  test("cannot be read from nodes that are no tree", () => {
    const json = { scenes: [{ nodes: [0] }], nodes: [{ children: [1] }, { children: [0] }] };
    expect(() => skeletonOf(writeGlb({ json, bin: new Uint8Array() }))).toThrow(/not a tree/);
  });
});

describe.each([
  ["the service's", ours, 1],
  ["a user's", () => users(), 2],
])("an edited skeleton in %s file", (_, file, size) => {
  const bytes = file();
  const before = skeletonOf(bytes)!;
  const limb = before.find((joint) => joint.name.toLowerCase().includes("l"))!;

  test("is read back as it was edited", () => {
    let after = moved(before, limb.id, [0.3, 1.25, 0.125]);
    after = moved(after, 0, [0.01, 0.9, 0]);
    after = renamed(after, limb.id, "Möwe.L");
    after = withChild(withChild(after, limb.id).skeleton, 0).skeleton;
    after = mirrored(after, limb.id)!;
    expectSame(skeletonOf(withSkeleton(bytes, after))!, after);
  });

  test("leaves the model where it was", async () => {
    const edited = withSkeleton(bytes, withChild(moved(before, limb.id, [0.3, 1.25, 0.125]), limb.id).skeleton);
    (await shown(edited, "Body")).forEach((vertex, index) => {
      const [x, y, z] = CORNERS.slice(3 * index) as [number, number, number];
      close(vertex, [size * x, size * y, size * z]);
    });
  });

  test("that is none changes no weight, and nothing the second time", () => {
    const once = withSkeleton(bytes, before);
    expect(weightsOf(once)).toEqual(weightsOf(bytes));
    expectSame(skeletonOf(once)!, before);
    const [{ json }, first] = [readGlb(withSkeleton(once, skeletonOf(once)!)), readGlb(once).json];
    const places = (nodes: GltfNode[]): GltfNode[] => nodes.map(({ extras: _, ...node }) => node);
    expect(places(json.nodes!)).toEqual(places(first.nodes!));
    expect(json.materials).toEqual(readGlb(bytes).json.materials);
  });
});

describe("joints that go", () => {
  const before = skeletonOf(ours())!;
  const without = (...names: string[]): Skeleton =>
    names.reduce((skeleton, name) => withoutLeaf(skeleton, named(skeleton, name).id), before);

  test("leave their weights to their parents, each joint once a vertex", () => {
    const after = withSkeleton(ours(), without("left_hand"));
    expect(weightsOf(after)).toEqual([
      { hips: 200, left_arm: 55 },
      { left_arm: 255 },
      { head: 55, left_arm: 150, hips: 50 },
      { head: 255 },
    ]);
    expect(weightsOf(withSkeleton(ours(), without("left_hand", "left_arm", "head")))).toEqual(Array(4).fill({ hips: 255 }));
  });

  test("are no nodes of the scene any more, and the others keep their index", () => {
    const { json } = readGlb(withSkeleton(ours(), without("left_hand", "left_arm")));
    expect(json.nodes).toHaveLength(6);
    expect(json.nodes!.map((node) => node.children)).toEqual([undefined, [2], [5], undefined, undefined, undefined]);
    expect(json.skins![0]!.joints).toEqual([2, 5]);
  });

  test("stay as nodes where they carry something else, which stays in its place", async () => {
    const place = await shown(users(), "Shoe");
    const skeleton = skeletonOf(users())!;
    const turned = moved(skeleton, 1, [0.5, 0.5, 0.5]);
    for (const edited of [turned, withoutLeaf(skeleton, 1)]) {
      const after = withSkeleton(users(), edited);
      (await shown(after, "Shoe")).forEach((vertex, index) => close(vertex, place[index]!));
    }
  });

  test("and one added below another parent have nothing in common", () => {
    const without = withoutLeaf(before, 3);
    const { skeleton, id } = withChild(without, 1);
    expect(id).toBe(3);
    const after = withSkeleton(ours(), withoutLeaf(withChild(without, 2).skeleton, 3));
    expect(skeletonOf(after)!.map((joint) => joint.name)).toEqual(["hips", "left_arm", "left_hand"]);
    expect(weightsOf(withSkeleton(ours(), skeleton))[3]).toEqual({ hips: 255 });
  });
});

describe("what else the file holds", () => {
  test("extras and names of other nodes stay", () => {
    const { json } = readGlb(withSkeleton(ours(), skeletonOf(ours())!));
    expect(json.nodes![2]!.extras).toEqual({ kept: true, tail: [0, 0.5, 0] });
    expect(json.nodes![1]!.name).toBe("Armature");
  });

  test("animations of joints go, others stay", () => {
    const animated = users({
      animations: [
        { channels: [{ target: { node: 0 } }, { target: { node: 5 } }] },
        { channels: [{ target: { node: 2 } }] },
      ],
    });
    const { json } = readGlb(withSkeleton(animated, skeletonOf(animated)!));
    expect(json.animations).toEqual([{ channels: [{ target: { node: 5 } }] }]);
  });

  test("meshes that two skins show become two", () => {
    const bytes = rigged({
      nodes: [
        { name: "a", children: [1] },
        { name: "b", translation: [0, 1, 0] },
        { mesh: 0, skin: 0 },
        { mesh: 0, skin: 1 },
        { mesh: 0, skin: 0 },
      ],
      roots: [0, 2, 3, 4],
      skins: [{ joints: [0, 1] }, { joints: [1, 0] }],
      joints: Array(16).fill(0),
      weights: Array(4).fill([255, 0, 0, 0]).flat(),
    });
    const after = withSkeleton(bytes, skeletonOf(bytes)!);
    expect(readGlb(after).json.nodes!.map((node) => node.mesh)).toEqual([undefined, undefined, 0, 2, 0]);
    expect([weightsOf(after, 0)[0], weightsOf(after, 2)[0]]).toEqual([{ a: 255 }, { b: 255 }]);
  });
});
