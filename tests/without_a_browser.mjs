// What three.js's loaders look for in a browser; there is no way to decode pictures in Node.
import { readFileSync } from "node:fs";

const picture = {
  addEventListener: (kind, listener) => kind === "error" && queueMicrotask(listener),
  removeEventListener() {},
};
globalThis.self = globalThis.window = globalThis;
globalThis.document = { createElementNS: () => picture };
console.error = () => {};

export const contentOf = (file) => {
  const bytes = readFileSync(file);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
};
