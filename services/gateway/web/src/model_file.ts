/**
 * Whether a file is a model that the service takes, judged before it is sent: the service's own
 * checks in its own words, so that nobody waits for an upload that is refused.
 */

export type ModelFormat = "obj" | "fbx" | "glb" | "vrm";

const INVALID_FORMAT = "Invalid file format. Supported: .obj, .fbx, .glb, .vrm";
const MAX_FILE_BYTES = 100 * 1024 ** 2;
const GLB_JSON_START = 20;
const JSON_CHUNK = 0x4e4f534a;
const FBX_HEAD_BYTES = 4096;
const OBJ_SLICE_BYTES = 4 * 1024 ** 2;
// The longest beginning of a line that is still recognised across two slices.
const OBJ_OVERLAP = 64;

/** format: by the name, null where it is none of ours. problem: a sentence for the user. */
export async function checkModelFile(file: File): Promise<{ format: ModelFormat | null; problem: string | null }> {
  const format = formatOf(file.name);
  if (format === null) {
    return { format, problem: INVALID_FORMAT };
  }
  if (file.size > MAX_FILE_BYTES) {
    return { format, problem: "File size exceeds maximum allowed size of 100MB" };
  }
  const wrong = file.size === 0 ? "it is empty" : await CHECKS[format](file);
  return { format, problem: wrong && `${INVALID_FORMAT}. This file is not a valid .${format}: ${wrong}.` };
}

function formatOf(name: string): ModelFormat | null {
  const extension = /\.([^.]*)$/.exec(name.trim())?.[1]?.toLowerCase() ?? "";
  return Object.hasOwn(CHECKS, extension) ? (extension as ModelFormat) : null;
}

const CHECKS: Record<ModelFormat, (file: File) => Promise<string | null>> = { obj, fbx, glb, vrm };

async function glb(file: File): Promise<string | null> {
  const head = new DataView(await file.slice(0, GLB_JSON_START).arrayBuffer());
  if (!"glTF".startsWith(latin1(head.buffer.slice(0, 4)))) {
    return "it does not begin as binary glTF";
  }
  if (head.byteLength < GLB_JSON_START) {
    return "it ends early";
  }
  const version = head.getUint32(4, true);
  if (version !== 2) {
    return `it is glTF version ${version}, not 2`;
  }
  const total = head.getUint32(8, true);
  if (head.getUint32(16, true) !== JSON_CHUNK || head.getUint32(12, true) > total - GLB_JSON_START) {
    return "its first chunk is not JSON";
  }
  if (file.size > total) {
    return "it is longer than its header says";
  }
  return file.size < total ? "it ends early" : null;
}

async function vrm(file: File): Promise<string | null> {
  const wrong = await glb(file);
  if (wrong !== null) {
    return wrong;
  }
  const head = new DataView(await file.slice(0, GLB_JSON_START).arrayBuffer());
  const json = await file.slice(GLB_JSON_START, GLB_JSON_START + head.getUint32(12, true)).arrayBuffer();
  return /"VRM(?:C_vrm)?"/.test(latin1(json)) ? null : "it has no VRM extension";
}

async function fbx(file: File): Promise<string | null> {
  const head = latin1(await file.slice(0, FBX_HEAD_BYTES).arrayBuffer());
  const binary = head.startsWith("Kaydara FBX Binary  \0");
  return binary || /^(?:\xef\xbb\xbf)?\s*;\s*FBX|FBXHeaderExtension/.test(head) ? null : "it does not begin as FBX";
}

/** Reads on until there is a vertex and a face, usually in the first slice. */
async function obj(file: File): Promise<string | null> {
  let [vertex, face] = [false, false];
  let tail = "\n";
  for (let start = 0; start < file.size && !(vertex && face); start += OBJ_SLICE_BYTES) {
    const slice = latin1(await file.slice(start, start + OBJ_SLICE_BYTES).arrayBuffer());
    if (slice.includes("\0")) {
      return "it is not text";
    }
    const window = tail + (start === 0 ? slice.replace(/^\xef\xbb\xbf/, "") : slice);
    vertex ||= /[\r\n][ \t]*v[ \t]+\S/.test(window);
    face ||= /[\r\n][ \t]*f[ \t]+-?\d/.test(window);
    tail = window.slice(-OBJ_OVERLAP);
  }
  return vertex ? (face ? null : "it has no faces") : "it has no vertices";
}

/** One character a byte. */
function latin1(bytes: ArrayBuffer): string {
  return new TextDecoder("latin1").decode(bytes);
}
