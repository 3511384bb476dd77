/**
 * The skeleton of a GLB, read as the service reads it, and the same file with an edited one.
 *
 * The rest pose is the bind pose: a joint is where its inverse bind matrix puts it, with the
 * topmost joint of the skin where the file's nodes have it.
 */

import { Matrix4, Quaternion, Vector3 } from "three";
import { AddedAccessors, accessorNumbers, readGlb, writeGlb } from "./glb";
import type { Glb, Gltf, GltfNode, GltfPrimitive, GltfSkin, Numbers } from "./glb";
import type { Joint, Skeleton, Vector } from "./skeleton";

/** A node's place in the shown scene. parent: -1 for a root. world: to world space. */
interface Placed {
  parent: number;
  world: Matrix4;
}

/** bind: from the vertices that the skin moves to world space. inverses: one for each joint. */
interface Skin {
  entry: GltfSkin;
  bind: Matrix4;
  inverses: Matrix4[];
}

/**
 * skeleton: ids count from 0 in its order. nodes: the node of each joint, -1 for a root that the
 * file lacks. poses: each joint's world matrix in the bind pose.
 */
interface Rig {
  skeleton: Skeleton;
  nodes: number[];
  poses: Matrix4[];
  skins: Skin[];
  tree: Map<number, Placed>;
}

/** Null where nothing is skinned. Throws an Error with a sentence for the user. */
export function skeletonOf(bytes: ArrayBuffer): Skeleton | null {
  return rigOf(readGlb(bytes))?.skeleton ?? null;
}

/**
 * The file with this skeleton, an edited one of skeletonOf: joints are known by id, and what has
 * another parent than in the file is new. Meshes, materials and textures stay as they are, and so
 * do the weights; those of a joint that is gone are its parent's. Animations of the joints go, for
 * they belong to the old rest pose.
 */
export function withSkeleton(bytes: ArrayBuffer, skeleton: Skeleton): ArrayBuffer {
  const glb = readGlb(bytes);
  const rig = rigOf(glb);
  if (rig === null) {
    throw new Error("The file has no skeleton to edit.");
  }
  const { json } = glb;
  const nodes = placeJoints(json, rig, skeleton);
  const worlds = new Map([...rig.tree].map(([node, { world }]) => [node, world]));
  const poses = posesOf(rig, skeleton);
  nodes.forEach((node, index) => worlds.set(node, poses[index]!));
  skeleton.forEach((joint, index) => describe(json.nodes![nodes[index]!]!, joint, poses[index]!));
  const placed = [...walk(json)].filter(({ parent, node }) =>
    place(json.nodes![node]!, worlds.get(node)!, worlds.get(parent) ?? new Matrix4()),
  );
  dropAnimations(json, new Set([...rig.nodes, ...placed.map(({ node }) => node)]));
  const added = new AddedAccessors(glb);
  remapWeights(glb, added, rig, skeleton);
  for (const { entry, bind } of rig.skins) {
    entry.joints = nodes;
    entry.skeleton = nodes[0]!;
    const inverses = poses.flatMap((pose) => pose.clone().invert().multiply(bind).elements);
    entry.inverseBindMatrices = added.add(new Float32Array(inverses), "MAT4");
  }
  return writeGlb(added.joined());
}

function rigOf(glb: Glb): Rig | null {
  const { json } = glb;
  const tree = treeOf(json);
  const skins = (json.skins ?? [])
    .filter((skin) => skin.joints.every((joint) => tree.has(joint)))
    .map((skin) => skinOf(glb, tree, skin));
  const listed = [...new Set(skins.flatMap(({ entry }) => entry.joints))];
  if (listed.length === 0) {
    return null;
  }
  const isJoint = new Set(listed);
  const above = new Map(listed.map((node) => [node, ancestors(tree, node).find((other) => isJoint.has(other)) ?? -1]));
  const nodes = parentsFirst(listed, above);
  const names = nodes.map((node) => json.nodes![node]!.name || `joint_${listed.indexOf(node)}`);
  const poses = nodes.map((node) => poseOf(tree, skins, node));
  const roots = nodes.filter((node) => above.get(node) === -1);
  if (roots.length > 1) {
    const middle = roots
      .reduce((sum, node) => sum.add(position(poses[nodes.indexOf(node)]!)), new Vector3())
      .divideScalar(roots.length);
    nodes.unshift(-1);
    names.unshift("root");
    poses.unshift(new Matrix4().setPosition(middle));
  }
  const parents = nodes.map((node, index) => (index === 0 ? null : nodes.indexOf(above.get(node)!)));
  const tips = nodes.map((node, index) => tipOf(json.nodes![node], poses[index]!));
  const heads = poses.map(position);
  const tails = tailsOf(parents, heads, tips);
  const skeleton = unique(names).map((name, id) => ({
    id,
    name,
    parent: parents[id]!,
    head: vector(heads[id]!),
    tail: vector(tails[id]!),
  }));
  return { skeleton, nodes, poses, skins, tree };
}

function* walk(json: Gltf): Generator<{ node: number; parent: number }> {
  const nodes = json.nodes ?? [];
  const children = new Set(nodes.flatMap((node) => node.children ?? []));
  const scene = json.scenes?.[json.scene ?? 0];
  const roots = scene ? (scene.nodes ?? []) : [...nodes.keys()].filter((node) => !children.has(node));
  const seen = new Set<number>();
  const stack = roots.toReversed().map((node) => ({ node, parent: -1 }));
  for (let next = stack.pop(); next; next = stack.pop()) {
    const { node } = next;
    if (seen.has(node) || !nodes[node]) {
      throw new Error("The GLB file is damaged: its nodes are not a tree.");
    }
    seen.add(node);
    yield next;
    stack.push(...(nodes[node].children ?? []).toReversed().map((child) => ({ node: child, parent: node })));
  }
}

/** The nodes of the scene that is shown, parents first. */
function treeOf(json: Gltf): Map<number, Placed> {
  const tree = new Map<number, Placed>();
  for (const { node, parent } of walk(json)) {
    const above = tree.get(parent)?.world ?? new Matrix4();
    tree.set(node, { parent, world: above.clone().multiply(localMatrix(json.nodes![node]!)) });
  }
  return tree;
}

function localMatrix({ matrix, translation, rotation, scale }: GltfNode): Matrix4 {
  return matrix
    ? new Matrix4().fromArray(matrix)
    : new Matrix4().compose(
        new Vector3(...(translation ?? [])),
        new Quaternion(...(rotation ?? [])).normalize(),
        new Vector3(...(scale ?? [1, 1, 1])),
      );
}

function ancestors(tree: Map<number, Placed>, node: number): number[] {
  const chain = [];
  for (let above = tree.get(node)!.parent; above !== -1; above = tree.get(above)!.parent) {
    chain.push(above);
  }
  return chain;
}

function skinOf(glb: Glb, tree: Map<number, Placed>, entry: GltfSkin): Skin {
  const numbers = entry.inverseBindMatrices === undefined ? null : accessorNumbers(glb, entry.inverseBindMatrices);
  const inverses = entry.joints.map((_, joint) => (numbers ? new Matrix4().fromArray(numbers, 16 * joint) : new Matrix4()));
  const depths = entry.joints.map((node) => ancestors(tree, node).length);
  const top = depths.indexOf(Math.min(...depths));
  const bind = tree.get(entry.joints[top]!)!.world.clone().multiply(inverses[top]!);
  return { entry, bind, inverses };
}

/** In the first skin that has the joint. */
function poseOf(tree: Map<number, Placed>, skins: Skin[], node: number): Matrix4 {
  const { entry, bind, inverses } = skins.find((skin) => skin.entry.joints.includes(node))!;
  const inverse = inverses[entry.joints.indexOf(node)]!;
  return inverse.determinant() === 0 ? tree.get(node)!.world : bind.clone().multiply(inverse.clone().invert());
}

function parentsFirst(nodes: number[], above: Map<number, number>): number[] {
  const order = new Set<number>();
  for (const node of nodes) {
    const chain = [];
    for (let next = node; next !== -1 && !order.has(next); next = above.get(next)!) {
      chain.push(next);
    }
    chain.reverse().forEach((each) => order.add(each));
  }
  return [...order];
}

function unique(names: string[]): string[] {
  const taken = new Set<string>();
  for (const name of names) {
    let free = name;
    for (let number = 2; taken.has(free); number++) {
      free = `${name}_${number}`;
    }
    taken.add(free);
  }
  return [...taken];
}

/** The far end of a bone that the file gives, in world space. */
function tipOf(node: GltfNode | undefined, pose: Matrix4): Vector3 | null {
  const tail = (node?.extras as { tail?: unknown } | undefined)?.tail;
  return Array.isArray(tail) && tail.length === 3 ? new Vector3(...tail).applyMatrix4(pose) : null;
}

/**
 * The head of the child that carries the bone on, or the tip of a leaf: the child nearest to the
 * tip the file gives, else the one straight on, for a root the one with the most below it. A leaf
 * without a tip is half as long as its parent.
 */
function tailsOf(parents: (number | null)[], heads: Vector3[], tips: (Vector3 | null)[]): Vector3[] {
  const children = parents.map((_, joint) => [...parents.keys()].filter((child) => parents[child] === joint));
  const sizes = parents.map(() => 1);
  for (let joint = parents.length - 1; joint > 0; joint--) {
    sizes[parents[joint]!]! += sizes[joint]!;
  }
  const extent = ["x", "y", "z"] as const;
  const reach = Math.max(1e-3, ...extent.map((axis) => spread(heads.map((head) => head[axis]))));
  return heads.map((head, joint) => {
    const parent = parents[joint];
    const inward = parent === null ? new Vector3() : head.clone().sub(heads[parent!]!);
    const tip = tips[joint];
    const below = children[joint]!;
    if (below.length === 0) {
      const guess = inward.length() > 1e-6 * reach ? inward.divideScalar(2) : new Vector3(0, reach / 10, 0);
      return tip ?? head.clone().add(guess);
    }
    const merit = (child: number): number => {
      if (tip) {
        return -heads[child]!.distanceTo(tip);
      }
      return inward.length() > 0 ? heads[child]!.clone().sub(head).normalize().dot(inward) : sizes[child]!;
    };
    return heads[below.reduce((best, child) => (merit(child) > merit(best) ? child : best))]!;
  });
}

function spread(numbers: number[]): number {
  return Math.max(...numbers) - Math.min(...numbers);
}

/** The node of each joint of the edited skeleton, the file's tree of nodes made to fit it. */
function placeJoints(json: Gltf, rig: Rig, skeleton: Skeleton): number[] {
  const nodes = json.nodes!;
  const nodeOf = new Map<number, number>();
  for (const joint of skeleton) {
    const old = oldIndex(rig, joint);
    const node = old === null || rig.nodes[old] === -1 ? nodes.push({}) - 1 : rig.nodes[old]!;
    nodeOf.set(joint.id, node);
    const parent = joint.parent === null ? null : nodeOf.get(joint.parent)!;
    if (!rig.tree.has(node) || (parent !== null && !rig.tree.has(parent))) {
      detach(json, node);
      const siblings = parent === null ? shownRoots(json) : (nodes[parent]!.children ??= []);
      siblings.push(node);
    }
  }
  const used = new Set(nodeOf.values());
  for (const node of rig.nodes.filter((each) => each !== -1 && !used.has(each)).reverse()) {
    removeEmpty(json, node);
  }
  return [...nodeOf.values()];
}

/** A joint's index in the file's skeleton, null for a new one. */
function oldIndex(rig: Rig, joint: Joint): number | null {
  const old = rig.skeleton[joint.id];
  return old && old.parent === joint.parent ? joint.id : null;
}

function shownRoots(json: Gltf): number[] {
  const scene = json.scenes?.[json.scene ?? 0];
  return scene ? (scene.nodes ??= []) : [];
}

function detach(json: Gltf, node: number): void {
  for (const holder of json.nodes!) {
    removeFrom(holder, "children", node);
  }
  for (const scene of json.scenes ?? []) {
    removeFrom(scene, "nodes", node);
  }
}

/** An empty list is left out: glTF allows none. */
function removeFrom<Key extends string>(holder: { [key in Key]?: number[] }, key: Key, node: number): void {
  const kept = holder[key]?.filter((each) => each !== node);
  if (kept?.length === 0) {
    delete holder[key];
  } else if (kept) {
    holder[key] = kept;
  }
}

/**
 * Takes a joint that is gone out of the tree, unless the node is more than a joint. An empty one
 * stays in its place, for extensions know nodes by their index.
 */
function removeEmpty(json: Gltf, node: number): void {
  const { children, mesh, camera, extensions } = json.nodes![node]!;
  if (children || mesh !== undefined || camera !== undefined || extensions) {
    return;
  }
  detach(json, node);
  json.nodes![node] = {};
}

/** Turned as in the file, new ones as their parent is. */
function posesOf(rig: Rig, skeleton: Skeleton): Matrix4[] {
  const poses = new Map<number, Matrix4>();
  for (const joint of skeleton) {
    const old = oldIndex(rig, joint);
    const turned = old !== null ? rig.poses[old]! : poses.get(joint.parent!)!;
    poses.set(joint.id, turned.clone().setPosition(...joint.head));
  }
  return [...poses.values()];
}

/** Gives a node a joint's name, and its tail as an offset in the joint's space. */
function describe(node: GltfNode, joint: Joint, pose: Matrix4): void {
  const tail = new Vector3(...joint.tail).applyMatrix4(pose.clone().invert()).toArray();
  node.name = joint.name;
  node.extras = { ...(typeof node.extras === "object" ? node.extras : {}), tail };
}

/** Puts a node where it shall be in the world; false where it was there already. */
function place(node: GltfNode, world: Matrix4, above: Matrix4): boolean {
  const local = above.clone().invert().multiply(world);
  const before = localMatrix(node).elements;
  const largest = Math.max(...before.map(Math.abs));
  if (local.elements.every((value, index) => Math.abs(value - before[index]!) <= 1e-6 * largest)) {
    return false;
  }
  for (const key of ["matrix", "translation", "rotation", "scale"] as const) {
    delete node[key];
  }
  if (new Matrix4().copyPosition(local).equals(local)) {
    node.translation = position(local).toArray();
  } else {
    node.matrix = local.toArray();
  }
  return true;
}

function dropAnimations(json: Gltf, targets: Set<number>): void {
  const still = (json.animations ?? [])
    .map((animation) => ({
      ...animation,
      channels: animation.channels.filter(({ target }) => target.node === undefined || !targets.has(target.node)),
    }))
    .filter(({ channels }) => channels.length > 0);
  if (still.length > 0) {
    json.animations = still;
  } else {
    delete json.animations;
  }
}

/** Makes the meshes' JOINTS count in the edited skeleton's order. A mesh of two skins becomes two. */
function remapWeights(glb: Glb, added: AddedAccessors, rig: Rig, skeleton: Skeleton): void {
  const { json } = glb;
  const originals = [...(json.meshes ?? [])];
  const meshes = new Map<string, number>();
  const taken = new Set<number>();
  for (const node of json.nodes!) {
    const skin = rig.skins.find(({ entry }) => entry === json.skins![node.skin ?? -1]);
    if (!skin || node.mesh === undefined) {
      continue;
    }
    const key = `${node.mesh} ${node.skin}`;
    if (!meshes.has(key)) {
      const original = originals[node.mesh]!;
      const remapped = remapping(glb, added, placesOf(rig, skin.entry, skeleton), skeleton.length);
      const mesh = { ...original, primitives: original.primitives.map(remapped) };
      meshes.set(key, taken.has(node.mesh) ? json.meshes!.push(mesh) - 1 : node.mesh);
      taken.add(node.mesh);
      json.meshes![meshes.get(key)!] = mesh;
    }
    node.mesh = meshes.get(key)!;
  }
}

/** For each joint of a skin its index in the edited skeleton; its parent's where it is gone. */
function placesOf(rig: Rig, skin: GltfSkin, skeleton: Skeleton): number[] {
  const kept = new Map(skeleton.map((joint, index) => [oldIndex(rig, joint), index]));
  return skin.joints.map((node) => {
    let joint = rig.nodes.indexOf(node);
    while (!kept.has(joint)) {
      joint = rig.skeleton[joint]!.parent!;
    }
    return kept.get(joint)!;
  });
}

/** Primitives that share their weights share the new ones. */
function remapping(
  glb: Glb,
  added: AddedAccessors,
  places: number[],
  jointCount: number,
): (primitive: GltfPrimitive) => GltfPrimitive {
  const done = new Map<string, Record<string, number>>();
  return (primitive) => {
    const { attributes } = primitive;
    const sets = Object.keys(attributes).filter((name) => name.startsWith("JOINTS_")).map((name) => name.slice(7));
    if (places.every((place, index) => place === index)) {
      return primitive;
    }
    const key = sets.map((set) => `${attributes[`JOINTS_${set}`]} ${attributes[`WEIGHTS_${set}`]}`).join();
    if (!done.has(key)) {
      const weights = sets.map((set) => accessorNumbers(glb, attributes[`WEIGHTS_${set}`]!));
      const old = sets.map((set) => accessorNumbers(glb, attributes[`JOINTS_${set}`]!));
      const joints = merged(old, weights, places, jointCount);
      const entries = sets.flatMap((set, index) => {
        const { normalized } = glb.json.accessors![attributes[`WEIGHTS_${set}`]!]!;
        return [
          [`JOINTS_${set}`, added.add(joints[index]!, "VEC4")],
          [`WEIGHTS_${set}`, added.add(weights[index]!, "VEC4", normalized ? { normalized } : {})],
        ];
      });
      done.set(key, Object.fromEntries(entries));
    }
    return { ...primitive, attributes: { ...attributes, ...done.get(key) } };
  };
}

/**
 * The joints of sets of four a vertex, by their places. Where two of a vertex have become one, the
 * first takes both weights: glTF allows a joint one weight a vertex.
 */
function merged(joints: Numbers[], weights: Numbers[], places: number[], jointCount: number): Numbers[] {
  const result = joints.map(({ length }) => (jointCount <= 256 ? new Uint8Array(length) : new Uint16Array(length)));
  const slots = [...Array(4 * joints.length).keys()].map((slot) => ({ set: slot >> 2, corner: slot & 3 }));
  for (let vertex = 0; vertex < (joints[0]?.length ?? 0); vertex += 4) {
    slots.forEach(({ set, corner }, slot) => {
      const at = vertex + corner;
      const weight = weights[set]![at]!;
      if (weight === 0) {
        return;
      }
      const place = places[joints[set]![at]!] ?? 0;
      for (let first = 0; first < slot; first++) {
        const other = slots[first]!;
        const there = vertex + other.corner;
        if (weights[other.set]![there] !== 0 && result[other.set]![there] === place) {
          weights[other.set]![there]! += weight;
          weights[set]![at] = 0;
          return;
        }
      }
      result[set]![at] = place;
    });
  }
  return result;
}

function position(matrix: Matrix4): Vector3 {
  return new Vector3().setFromMatrixPosition(matrix);
}

function vector({ x, y, z }: Vector3): Vector {
  return [x, y, z];
}
