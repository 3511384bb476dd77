import { Mesh } from "three";
import { expect, test } from "vitest";
import { loadModel, meshesOf } from "./load_model";

const text = (lines: string) => new TextEncoder().encode(lines).buffer;

/** A GLB of one triangle, with changes to its JSON. */
function triangleGlb(changes: object = {}): ArrayBuffer {
  const json = {
    asset: { version: "2.0" },
    scene: 0,
    scenes: [{ nodes: [0] }],
    nodes: [{ mesh: 0, translation: [5, 0, 0] }],
    meshes: [{ primitives: [{ attributes: { POSITION: 0 } }] }],
    accessors: [{ bufferView: 0, componentType: 5126, count: 3, type: "VEC3", min: [0, 0, 0], max: [1, 2, 0] }],
    bufferViews: [{ buffer: 0, byteLength: 36 }],
    buffers: [{ byteLength: 36 } as object],
    ...changes,
  };
  const head = new TextEncoder().encode(JSON.stringify(json));
  const size = Math.ceil(head.length / 4) * 4;
  const glb = new ArrayBuffer(20 + size + 8 + 36);
  const bytes = new Uint8Array(glb);
  const words = new DataView(glb);
  [0x46546c67, 2, glb.byteLength, size, 0x4e4f534a].forEach((word, i) => words.setUint32(4 * i, word, true));
  bytes.fill(0x20, 20, 20 + size).set(head, 20);
  words.setUint32(20 + size, 36, true);
  words.setUint32(24 + size, 0x004e4942, true);
  [0, 0, 0, 1, 0, 0, 0, 2, 0].forEach((value, i) => words.setFloat32(28 + size + 4 * i, value, true));
  return glb;
}

test("a GLB is counted, and its box is where its nodes put it", async () => {
  const { counts, box } = await loadModel(triangleGlb(), "glb");
  expect(counts).toEqual({ vertices: 3, triangles: 1, bones: 0, meshes: 1 });
  expect(box.min.toArray()).toEqual([5, 0, 0]);
  expect(box.max.toArray()).toEqual([6, 2, 0]);
});

test("a compressed GLB is refused with the name of its compression", async () => {
  const draco = triangleGlb({ extensionsRequired: ["KHR_draco_mesh_compression"] });
  await expect(loadModel(draco, "glb")).rejects.toThrow("compressed with Draco");
  const meshopt = triangleGlb({ extensionsRequired: ["EXT_meshopt_compression"] });
  await expect(loadModel(meshopt, "vrm")).rejects.toThrow("compressed with meshopt");
});

test("a GLB with its data in another file is refused", async () => {
  const external = triangleGlb({ buffers: [{ byteLength: 36, uri: "https://example.com/model.bin" }] });
  await expect(loadModel(external, "glb")).rejects.toThrow("in other files");
});

test("a damaged file is refused in our words", async () => {
  await expect(loadModel(triangleGlb().slice(0, 60), "glb")).rejects.toThrow("damaged");
  await expect(loadModel(text("not an FBX file"), "fbx")).rejects.toThrow("damaged");
});

test("a file without triangles shows nothing", async () => {
  await expect(loadModel(text("v 0 0 0\nv 1 0 0\n"), "obj")).rejects.toThrow("no triangles");
});

test("an OBJ has the vertices of its file, smooth where it has no normals", async () => {
  const { object, counts } = await loadModel(
    text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 1\nf 1 2 3 4\n"),
    "obj",
  );
  expect(counts).toMatchObject({ vertices: 4, triangles: 2 });
  const [mesh] = meshesOf(object) as [Mesh];
  expect(mesh.geometry.getAttribute("normal").count).toBe(4);
});
