// Opens a GLB or FBX with three.js, turns one joint about the world's z, and prints where the
// vertices were and are.
// node pose_model.mjs FILE JOINT ANGLE
// -> {"names": [...], "rest": {mesh: [[x, y, z], ...]}, "posed": {mesh: ...}, "textured": [mesh...]}
import { contentOf } from "./without_a_browser.mjs";
import { Quaternion, Vector3 } from "three";
import { FBXLoader } from "three/addons/loaders/FBXLoader.js";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";

const [file, joint, angle] = process.argv.slice(2);
const scene = file.endsWith(".fbx")
  ? new FBXLoader().parse(contentOf(file), "")
  : (await new GLTFLoader().parseAsync(contentOf(file), "")).scene;
scene.updateMatrixWorld(true);

const nameInFile = (object) => object.userData.originalName ?? object.userData.name ?? object.name;
const skinned = [];
const bones = [];
scene.traverse((object) => object.isSkinnedMesh && skinned.push(object));
scene.traverse((object) => object.isBone && bones.push(object));

const positions = () =>
  Object.fromEntries(
    skinned.map((mesh) => [
      nameInFile(mesh),
      Array.from({ length: mesh.geometry.attributes.position.count }, (_, index) =>
        mesh.getVertexPosition(index, new Vector3()).applyMatrix4(mesh.matrixWorld).toArray(),
      ),
    ]),
  );

const rest = positions();
// FBXLoader gives a bone that several meshes share a child of the same name: the first is above.
const bone = bones.find((candidate) => nameInFile(candidate) === joint);
const parent = bone.parent.getWorldQuaternion(new Quaternion());
const turn = new Quaternion().setFromAxisAngle(new Vector3(0, 0, 1), Number(angle));
bone.quaternion.premultiply(parent.clone().invert().multiply(turn).multiply(parent));
scene.updateMatrixWorld(true);

const names = [...new Set(skinned[0].skeleton.bones.map(nameInFile))];
const textured = skinned.filter((mesh) => mesh.material.map).map(nameInFile);
console.log(JSON.stringify({ names, rest, posed: positions(), textured }));
