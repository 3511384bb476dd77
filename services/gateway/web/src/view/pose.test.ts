import { Bone, BufferGeometry, Group, Matrix4, Quaternion, Skeleton as ThreeSkeleton, SkinnedMesh, Vector3 } from "three";
import { expect, test } from "vitest";
import type { Skeleton } from "../skeleton";
import { Pose } from "./pose";

const skeleton: Skeleton = [
  { id: 0, name: "hips", parent: null, head: [0, 1, 0], tail: [0, 2, 0] },
  { id: 1, name: "tail.01", parent: 0, head: [0, 2, 0], tail: [0, 3, 0] },
  { id: 2, name: "tail.02", parent: 1, head: [0, 3, 0], tail: [0, 4, 0] },
];

/** The skeleton's bones, with a turned root as other programs write it. */
function model(): { model: Group; bones: Bone[] } {
  const bones = skeleton.map(({ name }) => {
    const bone = new Bone();
    bone.name = name.replace(".", "");
    bone.userData.name = name;
    return bone;
  });
  const [hips, first, second] = bones as [Bone, Bone, Bone];
  hips.position.set(0, 1, 0);
  hips.quaternion.setFromAxisAngle(new Vector3(1, 0, 0), -Math.PI / 2);
  first.position.set(0, 0, 1);
  second.position.set(0, 0, 1);
  hips.add(first);
  first.add(second);
  const mesh = new SkinnedMesh(new BufferGeometry());
  const model = new Group().add(hips, mesh);
  model.updateMatrixWorld(true);
  mesh.bind(new ThreeSkeleton(bones), new Matrix4());
  return { model, bones };
}

const moved = (pose: Pose, name: string, point: readonly [number, number, number]) =>
  new Vector3(...point).applyMatrix4(pose.movement(name)!);

test("at rest no joint has moved", () => {
  const pose = new Pose(model().model);
  for (const { name, tail } of skeleton) expect(moved(pose, name, tail).distanceTo(new Vector3(...tail))).toBeLessThan(1e-6);
});

test("a mesh with inverse bind matrices of its own moves no joint", () => {
  const { model: shown, bones } = model();
  const second = new SkinnedMesh(new BufferGeometry());
  const inverses = bones.map((bone) => bone.matrixWorld.clone().invert().multiply(new Matrix4().makeTranslation(0, 5, 0)));
  shown.add(second);
  second.bind(new ThreeSkeleton(bones, inverses), new Matrix4());
  const pose = new Pose(shown);
  for (const { name, tail } of skeleton) expect(moved(pose, name, tail).distanceTo(new Vector3(...tail))).toBeLessThan(1e-6);
});

test("bones are found by the name in the file", () => {
  const { model: shown, bones } = model();
  const pose = new Pose(shown);
  expect(pose.bone("tail.02")).toBe(bones[2]);
  expect(pose.bone("tail02")).toBeNull();
  expect(pose.movement("nose")).toBeNull();
});

test("a turned joint takes its tail and what hangs on it along", () => {
  const { model: shown, bones } = model();
  const pose = new Pose(shown);
  bones[1]!.rotateX(Math.PI / 2);
  shown.updateMatrixWorld(true);
  expect(moved(pose, "tail.01", [0, 3, 0]).distanceTo(new Vector3(0, 2, 1))).toBeLessThan(1e-6);
  expect(moved(pose, "tail.02", [0, 4, 0]).distanceTo(new Vector3(0, 2, 2))).toBeLessThan(1e-6);
  pose.reset();
  shown.updateMatrixWorld(true);
  expect(moved(pose, "tail.02", [0, 4, 0]).distanceTo(new Vector3(0, 4, 0))).toBeLessThan(1e-6);
});

test("the swing moves the bones and gives the pose made by hand back", () => {
  const { model: shown, bones } = model();
  const pose = new Pose(shown);
  const byHand = new Quaternion().setFromAxisAngle(new Vector3(0, 1, 0), 0.4);
  bones[2]!.quaternion.copy(byHand);
  pose.startSwinging(skeleton);
  const turned = [1.3, 1.9, 2.6].map((seconds) => {
    pose.swingTo(seconds);
    return bones[2]!.quaternion.angleTo(byHand);
  });
  expect(Math.max(...turned)).toBeGreaterThan(0.02);
  pose.stopSwinging();
  expect(bones[2]!.quaternion.angleTo(byHand)).toBeLessThan(1e-6);
});

test("a swing's axis is the world's, whatever way the bones are turned", () => {
  const { model: shown, bones } = model();
  const pose = new Pose(shown);
  pose.startSwinging(skeleton);
  pose.swingTo(1.9);
  shown.updateMatrixWorld(true);
  // The tail hangs straight up here: it sways in a level direction and so loses height.
  const top = moved(pose, "tail.02", [0, 4, 0]);
  expect(bones[1]!.quaternion.angleTo(new Quaternion())).toBeGreaterThan(0.02);
  expect(top.y).toBeLessThan(4);
  expect(Math.hypot(top.x, top.z)).toBeGreaterThan(0.02);
});

test("a joint turned by numbers stands as they say", () => {
  const { model: shown, bones } = model();
  const pose = new Pose(shown);
  for (const angle of pose.turnOf("tail.01")) expect(angle).toBeCloseTo(0);
  pose.turn("tail.01", [90, 0, 0]);
  expect(bones[1]!.quaternion.angleTo(new Quaternion().setFromAxisAngle(new Vector3(1, 0, 0), Math.PI / 2))).toBeLessThan(1e-6);
  pose.turn("tail.01", [20, -30, 40]);
  pose.turnOf("tail.01").forEach((angle, axis) => expect(angle).toBeCloseTo([20, -30, 40][axis]!, 4));
  pose.turn("nose", [1, 2, 3]);
  expect(pose.turnOf("nose")).toEqual([0, 0, 0]);
});
