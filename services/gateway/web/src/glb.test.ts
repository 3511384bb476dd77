import { describe, expect, test } from "vitest";
import { AddedAccessors, accessorNumbers, readGlb, writeGlb } from "./glb";
import type { Glb } from "./glb";

function empty(): Glb {
  return { json: { asset: { version: "2.0" } }, bin: new Uint8Array() };
}

describe("a GLB", () => {
  test("has chunks that end on four bytes, whatever its text", () => {
    for (const generator of ["", "ä", "äb", "ä€"]) {
      const json = { asset: { version: "2.0", generator } };
      const bytes = writeGlb({ json, bin: new Uint8Array([1, 2, 3]) });
      expect(bytes.byteLength % 4).toBe(0);
      expect(new DataView(bytes).getUint32(8, true)).toBe(bytes.byteLength);
      expect(readGlb(bytes)).toEqual({ json, bin: new Uint8Array([1, 2, 3, 0]) });
    }
  });

  test("needs no binary chunk", () => {
    expect(readGlb(writeGlb(empty()))).toEqual(empty());
  });

  test.each([
    ["no GLB", (bytes: DataView) => bytes.setUint8(0, 0), /not a binary glTF/],
    ["glTF 1", (bytes: DataView) => bytes.setUint32(4, 1, true), /version 1; only version 2/],
    ["cut off", (bytes: DataView) => bytes.setUint32(8, 9999, true), /truncated/],
    ["without JSON", (bytes: DataView) => bytes.setUint32(16, 7, true), /JSON chunk is missing/],
    ["with a JSON chunk too long", (bytes: DataView) => bytes.setUint32(12, 9999, true), /JSON chunk is missing/],
    ["with broken JSON", (bytes: DataView) => bytes.setUint8(21, 0x2c), /cannot be read/],
  ])("that is %s is refused with a sentence", (_, spoil, reason) => {
    const bytes = writeGlb(empty());
    spoil(new DataView(bytes));
    expect(() => readGlb(bytes)).toThrow(reason);
  });

  test("that is nothing is refused too", () => {
    expect(() => readGlb(new ArrayBuffer(0))).toThrow(/not a binary glTF/);
  });
});

describe("accessors", () => {
  test("that are added can be read, and leave the others alone", () => {
    const first = new AddedAccessors({ json: { extras: "kept" }, bin: new Uint8Array([7]) });
    const old = first.add(new Uint16Array([1, 2, 3]), "SCALAR");
    const added = new AddedAccessors(readGlb(writeGlb(first.joined())));
    const bytes = added.add(new Uint8Array([1, 2, 3, 4]), "VEC4", { normalized: true });
    const floats = added.add(new Float32Array([0.5, -1, 2]), "VEC3");
    const again = readGlb(writeGlb(added.joined()));
    expect(again.json.extras).toBe("kept");
    expect(again.bin[0]).toBe(7);
    expect(accessorNumbers(again, old)).toEqual(new Uint16Array([1, 2, 3]));
    expect(accessorNumbers(again, bytes)).toEqual(new Uint8Array([1, 2, 3, 4]));
    expect(accessorNumbers(again, floats)).toEqual(new Float32Array([0.5, -1, 2]));
    expect(again.json.accessors![bytes]).toMatchObject({ componentType: 5121, count: 1, normalized: true });
    expect(again.json.buffers![0]!.byteLength).toBe(again.bin.length);
  });

  test("that lie between others are read by their stride", () => {
    const bin = new Uint8Array([9, 9, 1, 2, 9, 9, 3, 4]);
    const json = {
      accessors: [{ bufferView: 0, byteOffset: 1, componentType: 5121, type: "VEC2", count: 2 }],
      bufferViews: [{ buffer: 0, byteOffset: 1, byteLength: 7, byteStride: 4 }],
      buffers: [{ byteLength: 8 }],
    };
    expect(accessorNumbers({ json, bin }, 0)).toEqual(new Uint8Array([1, 2, 3, 4]));
    json.accessors[0]!.count = 3;
    expect(() => accessorNumbers({ json, bin }, 0)).toThrow(/does not hold/);
  });
});
