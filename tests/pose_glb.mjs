// Opens a GLB with three.js, turns one joint about z, and prints where the vertices are then.
// node pose_glb.mjs FILE JOINT_INDEX ANGLE -> {"names": [...], "positions": {mesh: [[x, y, z], ...]}}
import { readFileSync } from "node:fs";
import { Vector3 } from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";

globalThis.self = globalThis; // the loader looks for URL there
console.error = () => {}; // there is no way to decode pictures in Node

const [file, joint, angle] = process.argv.slice(2);
const bytes = readFileSync(file);
const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
const { scene } = await new GLTFLoader().parseAsync(buffer, "");

const skinned = [];
scene.traverse((object) => object.isSkinnedMesh && skinned.push(object));
skinned[0].skeleton.bones[Number(joint)].rotateZ(Number(angle));
scene.updateMatrixWorld(true);
const positions = {};
for (const mesh of skinned) {
  positions[mesh.name] = [];
  for (let index = 0; index < mesh.geometry.attributes.position.count; index++) {
    const vertex = mesh.getVertexPosition(index, new Vector3()).applyMatrix4(mesh.matrixWorld);
    positions[mesh.name].push(vertex.toArray());
  }
}
const names = skinned[0].skeleton.bones.map((bone) => bone.userData.name ?? bone.name);
console.log(JSON.stringify({ names, positions }));
