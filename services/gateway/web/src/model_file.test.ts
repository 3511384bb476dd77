import { describe, expect, test } from "vitest";
import { writeGlb } from "./glb";
import { checkModelFile } from "./model_file";

const INVALID = "Invalid file format. Supported: .obj, .fbx, .glb, .vrm";
const EMPTY = { json: { asset: { version: "2.0" } }, bin: new Uint8Array() };
const GLB = new Uint8Array(writeGlb(EMPTY));
const VRM = new Uint8Array(writeGlb({ ...EMPTY, json: { extensions: { VRMC_vrm: {} } } }));
const VRM_0 = new Uint8Array(writeGlb({ ...EMPTY, json: { extensions: { VRM: {} } } }));

type Content = string | Uint8Array<ArrayBuffer>;

function checked(name: string, ...content: Content[]): ReturnType<typeof checkModelFile> {
  return checkModelFile(new File(content, name));
}

function spoiled(change: (bytes: DataView) => void): Uint8Array<ArrayBuffer> {
  const bytes = GLB.slice();
  change(new DataView(bytes.buffer));
  return bytes;
}

describe("a model", () => {
  test.each<[string, string, Content]>([
    ["glb", "a.glb", GLB],
    ["glb", "two.dots.GLB ", GLB],
    ["vrm", "a.vrm", VRM],
    ["vrm", "a.vrm", VRM_0],
    ["fbx", "a.fbx", "Kaydara FBX Binary  \0\x1a\0"],
    ["fbx", "a.fbx", "\ufeff; FBX 7.4.0 project file"],
    ["fbx", "a.fbx", "\nFBXHeaderExtension: {"],
    ["obj", "a.obj", "v 1 2 3\r\nf 1 1 1"],
    ["obj", "a.obj", "\ufeffv 1 2 3\n f 1/1 1/1 1/1\n"],
    ["obj", "a.obj", `# ü\n${"v 1 2 3\n".repeat(700_000)}f -1 -2 -3\n`],
    // The face's line lies across the border of two slices.
    ["obj", "a.obj", `${"v 1 2 3\n#".padEnd(4 * 1024 ** 2 - 3, "x")}\nf 1 2 3`],
  ])("of %s is taken: %s", async (format, name, content) => {
    expect(await checked(name, content)).toEqual({ format, problem: null });
  });

  test.each(["a.blend", "a", "glb", "a.glb.zip", "a.constructor"])("is none by its name: %s", async (name) => {
    expect(await checked(name, GLB)).toEqual({ format: null, problem: INVALID });
  });

  test("may have 100 MB and not a byte more", async () => {
    const ofSize = (value: number): File => Object.defineProperty(new File([GLB], "a.glb"), "size", { value });
    const { problem } = await checkModelFile(ofSize(100 * 1024 ** 2 + 1));
    expect(problem).toBe("File size exceeds maximum allowed size of 100MB");
    const { problem: other } = await checkModelFile(ofSize(100 * 1024 ** 2));
    expect(other).toContain("it is longer than its header says");
  });

  test.each<[string, Content, string]>([
    ["glb", "", "it is empty"],
    ["obj", "", "it is empty"],
    ["glb", "solid", "it does not begin as binary glTF"],
    ["glb", GLB.slice(0, 3), "it ends early"],
    ["glb", GLB.slice(0, -1), "it ends early"],
    ["glb", spoiled((bytes) => bytes.setUint32(4, 1, true)), "it is glTF version 1, not 2"],
    ["glb", spoiled((bytes) => bytes.setUint32(16, 1, true)), "its first chunk is not JSON"],
    ["glb", spoiled((bytes) => bytes.setUint32(12, 999, true)), "its first chunk is not JSON"],
    ["glb", new Uint8Array([...GLB, 0]), "it is longer than its header says"],
    ["vrm", "solid", "it does not begin as binary glTF"],
    ["vrm", GLB, "it has no VRM extension"],
    ["fbx", "v 1 2 3", "it does not begin as FBX"],
    ["fbx", "Kaydara FBX Binary", "it does not begin as FBX"],
    ["obj", GLB, "it is not text"],
    ["obj", "vn 1 2 3\nf 1 2 3", "it has no vertices"],
    ["obj", "v 1 2 3\nfoo 1", "it has no faces"],
  ])("of %s is refused as the service would: %#", async (format, content, reason) => {
    const problem = `${INVALID}. This file is not a valid .${format}: ${reason}.`;
    expect(await checked(`a.${format}`, content)).toEqual({ format, problem });
  });
});
