/** Model files, read into three.js objects in the browser. Nothing is fetched but what the file itself holds. */

import {
  Box3,
  BufferAttribute,
  BufferGeometry,
  LoadingManager,
  type Material,
  Mesh,
  MeshStandardMaterial,
  type Object3D,
  SkinnedMesh,
  Texture,
  TextureLoader,
  Vector3,
} from "three";
import type { GLTFLoaderPlugin, GLTFParser } from "three/addons/loaders/GLTFLoader.js";
import { weld } from "./weld";

export interface ModelCounts {
  readonly vertices: number;
  readonly triangles: number;
  readonly bones: number;
  readonly meshes: number;
}

export interface LoadedModel {
  readonly object: Object3D;
  readonly counts: ModelCounts;
  /** Of what is seen, as it stands in the file. */
  readonly box: Box3;
}

/** Reads a model file. Throws an Error with a sentence for the user where it cannot be shown. */
export async function loadModel(bytes: ArrayBuffer, format: string): Promise<LoadedModel> {
  const read = { glb: readGlb, vrm: readGlb, fbx: readFbx, obj: readObj }[format];
  if (!read) throw new Error(`${format.toUpperCase()} files cannot be shown here.`);
  const object = await read(bytes);
  refuseWhatHasNoPlace(object);
  removeLights(object);
  object.updateMatrixWorld(true);
  const counts = countsOf(object);
  if (counts.triangles === 0) {
    throw new Error("There is nothing to show: the file holds no triangles.");
  }
  return { object, counts, box: boxOf(object) };
}

function refuseWhatHasNoPlace(object: Object3D): void {
  for (const mesh of meshesOf(object)) {
    if (!mesh.geometry.getAttribute("position")?.array.every(Number.isFinite)) {
      throw new CannotShow("The model cannot be shown: a face has a vertex that is nowhere.");
    }
  }
}

/** Frees what a model holds on the graphics card. */
export function disposeModel(object: Object3D): void {
  for (const mesh of meshesOf(object)) {
    mesh.geometry.dispose();
    if (mesh instanceof SkinnedMesh) mesh.skeleton.dispose();
    for (const material of materialsOf(mesh)) {
      for (const texture of texturesOf(material)) {
        texture[1].dispose();
        if (texture[1].image instanceof ImageBitmap) texture[1].image.close();
      }
      material.dispose();
    }
  }
}

export function meshesOf(object: Object3D): Mesh[] {
  const meshes: Mesh[] = [];
  object.traverse((child) => {
    if (child instanceof Mesh) meshes.push(child);
  });
  return meshes;
}

export function skinnedMeshesOf(object: Object3D): SkinnedMesh[] {
  return meshesOf(object).filter((mesh) => mesh instanceof SkinnedMesh);
}

export function materialsOf(mesh: Mesh): Material[] {
  return Array.isArray(mesh.material) ? mesh.material : [mesh.material];
}

/** The name in the file: the loader takes some characters out of an object's own name. */
export function boneName(bone: Object3D): string {
  const name: unknown = bone.userData.name;
  return typeof name === "string" ? name : bone.name;
}

async function readGlb(bytes: ArrayBuffer): Promise<Object3D> {
  const { GLTFLoader } = await import("three/addons/loaders/GLTFLoader.js");
  const manager = new LoadingManager();
  const made: string[] = [];
  // The page's policy lets nothing load from a data: URI; the same bytes behind a blob: URL may.
  manager.setURLModifier((url) => {
    if (!url.startsWith("data:")) return url;
    const blob = URL.createObjectURL(dataUriBlob(url));
    made.push(blob);
    return blob;
  });
  const loader = new GLTFLoader(manager);
  loader.register(refuseWhatCannotBeShown);
  loader.register(embeddedTexturesOnly);
  try {
    return (await loader.parseAsync(bytes, "")).scene;
  } catch (error) {
    throw error instanceof CannotShow ? error : new CannotShow("The GLB file is damaged and cannot be shown.", error);
  } finally {
    for (const url of made) URL.revokeObjectURL(url);
  }
}

async function readFbx(bytes: ArrayBuffer): Promise<Object3D> {
  const { FBXLoader } = await import("three/addons/loaders/FBXLoader.js");
  const manager = new LoadingManager();
  const textures = new EmbeddedTextureLoader(manager);
  manager.addHandler(/./, textures);
  let object: Object3D;
  try {
    object = new FBXLoader(manager).parse(bytes, "");
  } catch (error) {
    throw new CannotShow("The FBX file is damaged, or of a version older than 7.0, and cannot be shown.", error);
  }
  await textures.settled();
  for (const mesh of meshesOf(object)) {
    mesh.geometry.computeBoundingSphere();
    for (const material of materialsOf(mesh)) {
      for (const [slot, texture] of texturesOf(material)) {
        if (!texture.image) Object.assign(material, { [slot]: null });
      }
    }
  }
  return object;
}

async function readObj(bytes: ArrayBuffer): Promise<Object3D> {
  const { OBJLoader } = await import("three/addons/loaders/OBJLoader.js");
  const text = new TextDecoder().decode(bytes);
  const object = new OBJLoader().parse(text);
  // An OBJ file names its materials in another file, which is not sent along.
  const neutral = new MeshStandardMaterial({ color: 0xb9b4ab, roughness: 0.8 });
  const smooth = !/^vn\s/m.test(text);
  for (const mesh of meshesOf(object)) {
    mesh.material = neutral;
    if (smooth) mesh.geometry = smoothed(mesh.geometry);
  }
  return object;
}

/** A sentence for the user, and what the loader said for the console. */
class CannotShow extends Error {
  constructor(sentence: string, cause?: unknown) {
    super(sentence, { cause });
  }
}

function refuseWhatCannotBeShown(parser: GLTFParser): GLTFLoaderPlugin {
  const json = parser.json as { extensionsRequired?: string[]; buffers?: { uri?: string }[] };
  const compressions = {
    KHR_draco_mesh_compression: "Draco",
    EXT_meshopt_compression: "meshopt",
    KHR_meshopt_compression: "meshopt",
  };
  for (const [extension, name] of Object.entries(compressions)) {
    if (json.extensionsRequired?.includes(extension)) {
      throw new CannotShow(`The file is compressed with ${name} and cannot be shown here; it can be rigged all the same.`);
    }
  }
  if (json.buffers?.some(({ uri }) => uri !== undefined && !uri.startsWith("data:"))) {
    throw new CannotShow("The GLB file keeps its data in other files, which are not part of it.");
  }
  return { name: "refuseWhatCannotBeShown" };
}

/** Leaves out textures that lie in other files or are of a kind that takes a decoder of its own. */
function embeddedTexturesOnly(parser: GLTFParser): GLTFLoaderPlugin {
  const json = parser.json as { textures?: { source?: number }[]; images?: { uri?: string; mimeType?: string }[] };
  return {
    // Named so, it takes the place of three's own reader of KTX2 textures, which is first asked.
    name: "KHR_texture_basisu",
    loadTexture(index) {
      const image = json.images?.[json.textures?.[index]?.source ?? -1];
      const embedded = image !== undefined && (image.uri === undefined || image.uri.startsWith("data:"));
      // null to go on with the next reader; a promise of no texture to end here.
      return embedded && image.mimeType !== "image/ktx2" ? null : (Promise.resolve(null) as unknown as Promise<Texture>);
    },
  };
}

/** Loads the images inside an FBX file; a texture in another file stays without an image. */
class EmbeddedTextureLoader extends TextureLoader {
  private readonly loading: Promise<void>[] = [];

  override load(url: string): Texture<HTMLImageElement> {
    if (!url.startsWith("blob:")) return new Texture<HTMLImageElement>();
    let settle = (): void => undefined;
    this.loading.push(new Promise<void>((resolve) => (settle = resolve)).then(() => URL.revokeObjectURL(url)));
    return super.load(url, settle, undefined, settle);
  }

  async settled(): Promise<void> {
    await Promise.all(this.loading);
  }
}

function dataUriBlob(uri: string): Blob {
  const [head = "", body = ""] = uri.slice("data:".length).split(/,(.*)/s);
  const text = head.endsWith(";base64") ? atob(body) : decodeURIComponent(body);
  return new Blob([Uint8Array.from(text, (char) => char.charCodeAt(0))], { type: head.split(";")[0] });
}

/** The same surface with one vertex in each place and smooth normals. */
function smoothed(geometry: BufferGeometry): BufferGeometry {
  const positions = geometry.getAttribute("position");
  const { index, corners } = weld(positions.array);
  const places = new Float32Array(corners.length * 3);
  corners.forEach((corner, vertex) => {
    for (let c = 0; c < 3; c++) places[3 * vertex + c] = positions.array[3 * corner + c]!;
  });
  const result = new BufferGeometry();
  result.setAttribute("position", new BufferAttribute(places, 3));
  result.setIndex(new BufferAttribute(index, 1));
  result.computeVertexNormals();
  geometry.dispose();
  return result;
}

function removeLights(object: Object3D): void {
  const lights: Object3D[] = [];
  object.traverse((child) => {
    if ("isLight" in child) lights.push(child);
  });
  for (const light of lights) light.removeFromParent();
}

function texturesOf(material: Material): [slot: string, texture: Texture][] {
  return Object.entries(material).filter((entry): entry is [string, Texture] => entry[1] instanceof Texture);
}

function countsOf(object: Object3D): ModelCounts {
  const meshes = meshesOf(object);
  // By name: a loader may give each mesh its own copy of the skeleton.
  const bones = new Set(skinnedMeshesOf(object).flatMap((mesh) => mesh.skeleton.bones.map(boneName)));
  let vertices = 0;
  let triangles = 0;
  for (const { geometry } of meshes) {
    const positions = geometry.getAttribute("position");
    if (!positions) continue;
    const soup = geometry.index === null && positions instanceof BufferAttribute;
    vertices += soup ? weld(positions.array).corners.length : positions.count;
    triangles += Math.floor((geometry.index ?? positions).count / 3);
  }
  return { vertices, triangles, bones: bones.size, meshes: meshes.length };
}

// Enough to find a model's extent. A skinned vertex is moved on the CPU for this, which is slow.
const SKINNED_SAMPLES = 20_000;

function boxOf(object: Object3D): Box3 {
  const box = new Box3();
  const corner = new Vector3();
  for (const mesh of meshesOf(object)) {
    if (!mesh.visible) continue;
    if (!(mesh instanceof SkinnedMesh)) {
      mesh.geometry.computeBoundingBox();
      if (mesh.geometry.boundingBox) box.union(mesh.geometry.boundingBox.clone().applyMatrix4(mesh.matrixWorld));
      continue;
    }
    mesh.skeleton.update();
    const count = mesh.geometry.getAttribute("position").count;
    const step = Math.ceil(count / SKINNED_SAMPLES);
    for (let vertex = 0; vertex < count; vertex += step) {
      box.expandByPoint(mesh.getVertexPosition(vertex, corner).applyMatrix4(mesh.matrixWorld));
    }
  }
  return box;
}
