/** The binary container of glTF 2.0 (specification, sections 3.6 and 4.4): chunks and accessors. */

export interface GltfNode {
  name?: string;
  children?: number[];
  mesh?: number;
  skin?: number;
  camera?: number;
  matrix?: number[];
  translation?: number[];
  rotation?: number[];
  scale?: number[];
  extensions?: object;
  extras?: unknown;
}

export interface GltfSkin {
  joints: number[];
  skeleton?: number;
  inverseBindMatrices?: number;
}

export interface GltfPrimitive {
  attributes: Record<string, number>;
  extensions?: object;
}

export interface GltfAccessor {
  bufferView?: number;
  byteOffset?: number;
  componentType: number;
  type: string;
  count: number;
  normalized?: boolean;
  sparse?: object;
}

/** What the page touches of a file's JSON; the rest passes through it unread. */
export interface Gltf {
  scene?: number;
  scenes?: { nodes?: number[] }[];
  nodes?: GltfNode[];
  meshes?: { primitives: GltfPrimitive[] }[];
  skins?: GltfSkin[];
  animations?: { channels: { target: { node?: number } }[] }[];
  accessors?: GltfAccessor[];
  bufferViews?: { buffer: number; byteOffset?: number; byteLength: number; byteStride?: number }[];
  buffers?: { byteLength: number; uri?: string }[];
  [other: string]: unknown;
}

export interface Glb {
  json: Gltf;
  bin: Uint8Array<ArrayBuffer>;
}


const MAGIC = 0x46546c67;
const JSON_CHUNK = 0x4e4f534a;
const BINARY_CHUNK = 0x004e4942;
const ARRAYS = {
  5120: Int8Array,
  5121: Uint8Array,
  5122: Int16Array,
  5123: Uint16Array,
  5125: Uint32Array,
  5126: Float32Array,
} as const;
export type Numbers = InstanceType<(typeof ARRAYS)[keyof typeof ARRAYS]>;
const WIDTHS: Record<string, number> = { SCALAR: 1, VEC2: 2, VEC3: 3, VEC4: 4, MAT2: 4, MAT3: 9, MAT4: 16 };

/** Throws an Error with a sentence for the user where the bytes are no GLB 2.0. */
export function readGlb(bytes: ArrayBuffer): Glb {
  const view = new DataView(bytes);
  if (bytes.byteLength < 20 || view.getUint32(0, true) !== MAGIC) {
    throw new Error("The file is not a binary glTF (GLB) file.");
  }
  const version = view.getUint32(4, true);
  if (version !== 2) {
    throw new Error(`The GLB file has version ${version}; only version 2 is supported.`);
  }
  const total = view.getUint32(8, true);
  if (total > bytes.byteLength) {
    throw new Error("The GLB file is truncated: it is shorter than it says.");
  }
  const jsonLength = view.getUint32(12, true);
  if (view.getUint32(16, true) !== JSON_CHUNK || jsonLength > total - 20) {
    throw new Error("The GLB file is damaged: its JSON chunk is missing.");
  }
  return { json: parsed(new Uint8Array(bytes, 20, jsonLength)), bin: binaryChunk(bytes, 20 + jsonLength, total) };
}

function parsed(chunk: Uint8Array): Gltf {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(chunk));
  } catch {
    throw new Error("The GLB file is damaged: its JSON chunk cannot be read.");
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new Error("The GLB file is damaged: its JSON chunk is no object.");
  }
  return json as Gltf;
}

function binaryChunk(bytes: ArrayBuffer, start: number, end: number): Uint8Array<ArrayBuffer> {
  const view = new DataView(bytes);
  for (let offset = start; offset + 8 <= end; ) {
    const length = view.getUint32(offset, true);
    if (offset + 8 + length > end) {
      throw new Error("The GLB file is truncated: its binary chunk is cut off.");
    }
    if (view.getUint32(offset + 4, true) === BINARY_CHUNK) {
      return new Uint8Array(bytes, offset + 8, length);
    }
    offset += 8 + length;
  }
  return new Uint8Array();
}

export function writeGlb({ json, bin }: Glb): ArrayBuffer {
  const text = new TextEncoder().encode(JSON.stringify(json));
  const jsonLength = padded(text.length);
  const binaryLength = padded(bin.length);
  const total = 20 + jsonLength + (binaryLength > 0 ? 8 + binaryLength : 0);
  const bytes = new ArrayBuffer(total);
  const view = new DataView(bytes);
  [MAGIC, 2, total, jsonLength, JSON_CHUNK].forEach((word, index) => view.setUint32(4 * index, word, true));
  const content = new Uint8Array(bytes);
  content.set(text, 20);
  content.fill(0x20, 20 + text.length, 20 + jsonLength);
  if (binaryLength > 0) {
    view.setUint32(20 + jsonLength, binaryLength, true);
    view.setUint32(24 + jsonLength, BINARY_CHUNK, true);
    content.set(bin, 28 + jsonLength);
  }
  return bytes;
}

/** The elements of an accessor one after the other, as stored: normalised integers stay integers. */
export function accessorNumbers({ json, bin }: Glb, index: number): Numbers {
  const accessor = json.accessors?.[index];
  const view = json.bufferViews?.[accessor?.bufferView ?? -1];
  const ArrayType = ARRAYS[accessor?.componentType as keyof typeof ARRAYS];
  const width = WIDTHS[accessor?.type ?? ""];
  if (!accessor || !view || !ArrayType || !width || accessor.sparse) {
    throw new Error("The GLB file keeps its rig in a way that cannot be edited here: compressed or sparse.");
  }
  if (view.buffer !== 0 || json.buffers?.[0]?.uri !== undefined) {
    throw new Error("The GLB file keeps its data in other files; pack it into one file.");
  }
  const size = width * ArrayType.BYTES_PER_ELEMENT;
  const stride = view.byteStride ?? size;
  const start = (view.byteOffset ?? 0) + (accessor.byteOffset ?? 0);
  if (start < 0 || start + (accessor.count - 1) * stride + size > bin.length) {
    throw new Error("The GLB file is damaged: it refers to something it does not hold.");
  }
  if (stride === size) {
    return new ArrayType(bin.slice(start, start + accessor.count * size).buffer);
  }
  const packed = new Uint8Array(accessor.count * size);
  for (let element = 0; element < accessor.count; element++) {
    const from = start + element * stride;
    packed.set(bin.subarray(from, from + size), element * size);
  }
  return new ArrayType(packed.buffer);
}

/** Accessors to add to a GLB: described in its JSON at once, their bytes joined to the others once. */
export class AddedAccessors {
  private readonly pieces: Uint8Array[] = [];
  private length: number;

  constructor(private readonly glb: Glb) {
    this.length = padded(glb.bin.length);
  }

  /** The new accessor's index. type: "VEC4", "MAT4", … */
  add(numbers: Numbers, type: string, options: { normalized?: boolean } = {}): number {
    const { json } = this.glb;
    const views = (json.bufferViews ??= []);
    const accessors = (json.accessors ??= []);
    const componentType = Number(Object.entries(ARRAYS).find(([, kind]) => numbers instanceof kind)![0]);
    views.push({ buffer: 0, byteOffset: this.length, byteLength: numbers.byteLength });
    const count = numbers.length / WIDTHS[type]!;
    accessors.push({ bufferView: views.length - 1, componentType, type, count, ...options });
    this.pieces.push(new Uint8Array(numbers.buffer));
    this.length += padded(numbers.byteLength);
    return accessors.length - 1;
  }

  joined(): Glb {
    const { json, bin } = this.glb;
    const all = new Uint8Array(this.length);
    all.set(bin);
    let offset = padded(bin.length);
    for (const piece of this.pieces) {
      all.set(piece, offset);
      offset += padded(piece.length);
    }
    const [first, ...others] = json.buffers ?? [];
    return { json: { ...json, buffers: [{ ...first, byteLength: all.length }, ...others] }, bin: all };
  }
}

function padded(length: number): number {
  return Math.ceil(length / 4) * 4;
}
