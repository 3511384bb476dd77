// Opens a VRM with three-vrm, turns a bone of its humanoid about z, and prints what it understood.
// node open_vrm.mjs FILE BONE ANGLE -> {"version": "1", "meta": {...}, "bones": {bone: node name},
// "expressions": [...], "rest": {mesh: [[x, y, z], ...]}, "posed": {mesh: ...}}
import { contentOf } from "./without_a_browser.mjs";
import { VRMLoaderPlugin } from "@pixiv/three-vrm";
import { Vector3 } from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";

const [file, bone, angle] = process.argv.slice(2);
const loader = new GLTFLoader();
loader.register((parser) => new VRMLoaderPlugin(parser));
const { scene, userData } = await loader.parseAsync(contentOf(file), "");
const { meta, humanoid, expressionManager } = userData.vrm;

const nameInFile = (object) => object.userData.name ?? object.name;
const skinned = [];
scene.traverse((object) => object.isSkinnedMesh && skinned.push(object));
const positions = () => {
  scene.updateMatrixWorld(true);
  return Object.fromEntries(
    skinned.map((mesh) => [
      nameInFile(mesh),
      Array.from({ length: mesh.geometry.attributes.position.count }, (_, index) =>
        mesh.getVertexPosition(index, new Vector3()).applyMatrix4(mesh.matrixWorld).toArray(),
      ),
    ]),
  );
};

const rest = positions();
humanoid.getNormalizedBoneNode(bone).rotation.z = Number(angle);
userData.vrm.update(0);
const bones = Object.fromEntries(
  Object.entries(humanoid.humanBones).map(([name, { node }]) => [name, nameInFile(node)]),
);
const expressions = expressionManager?.expressions.map((one) => one.expressionName) ?? [];
console.log(
  JSON.stringify({ version: meta.metaVersion, meta, bones, expressions, rest, posed: positions() }),
);
