// Edits the skeleton of a GLB with the functions of the web page.
// node edit_in_page.mjs IN.glb OUT.glb EDITS
// EDITS: JSON, [[function, joint's name, more arguments...], ...]
// -> [{"name": ..., "parent": name or null, "head": [x, y, z], "tail": [x, y, z]}, ...]
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { runnerImport } from "../services/gateway/web/node_modules/vite/dist/node/index.js";

const root = fileURLToPath(new URL("../services/gateway/web", import.meta.url));
const source = async (file) =>
  (await runnerImport(`${root}/src/${file}`, { root, configFile: false, logLevel: "error" })).module;
const { skeletonOf, withSkeleton } = await source("skeleton_glb.ts");
const edits = await source("skeleton_edits.ts");

const [input, output, steps] = process.argv.slice(2);
const glb = Uint8Array.from(readFileSync(input)).buffer;
let skeleton = skeletonOf(glb);
for (const [edit, name, ...more] of JSON.parse(steps)) {
  const { id } = skeleton.find((joint) => joint.name === name);
  const edited = edits[edit](skeleton, id, ...more);
  skeleton = edited.skeleton ?? edited;
}
writeFileSync(output, Buffer.from(withSkeleton(glb, skeleton)));
const names = new Map(skeleton.map((joint) => [joint.id, joint.name]));
const said = skeleton.map(({ name, parent, head, tail }) => ({ name, parent: names.get(parent) ?? null, head, tail }));
console.log(JSON.stringify(said));
