import "fake-indexeddb/auto";
import { beforeEach, expect, test, vi } from "vitest";

import * as remembered from "./remembered";

beforeEach(() => {
  const items = new Map<string, string>();
  vi.stubGlobal("localStorage", {
    getItem: (key: string) => items.get(key) ?? null,
    setItem: (key: string, value: string) => void items.set(key, value),
    removeItem: (key: string) => void items.delete(key),
    key: (place: number) => [...items.keys()][place] ?? null,
    get length() {
      return items.size;
    },
  });
});

test("a file is found again by its path", async () => {
  await remembered.keepFile("/uploads/s/a.glb", new Blob(["one"]));
  expect(await (await remembered.findFile("/uploads/s/a.glb"))?.text()).toBe("one");
  expect(await remembered.findFile("/uploads/s/b.glb")).toBeNull();
  expect(await remembered.findThumbnail("/uploads/s/a.glb")).toBeNull();
});

test("only the last files are kept", async () => {
  vi.useFakeTimers({ toFake: ["Date"] });
  for (const name of ["a", "b", "c", "d"]) {
    vi.advanceTimersByTime(1000);
    await remembered.keepFile(`/uploads/t/${name}.glb`, new Blob([name]));
  }
  vi.useRealTimers();
  expect(await remembered.findFile("/uploads/t/a.glb")).toBeNull();
  expect(await (await remembered.findFile("/uploads/t/d.glb"))?.text()).toBe("d");
});

test("a model that is deleted leaves nothing", async () => {
  await remembered.keepFile("/uploads/u/a.glb", new Blob(["a"]));
  await remembered.keepThumbnail("/uploads/u/a.glb", new Blob(["picture"]));
  await remembered.forget("/uploads/u/a.glb");
  expect(await remembered.findFile("/uploads/u/a.glb")).toBeNull();
  expect(await remembered.findThumbnail("/uploads/u/a.glb")).toBeNull();
});

test("edits are kept for their job until they are taken back", () => {
  const skeleton = [{ id: 0, name: "root", parent: null, head: [0, 0, 0], tail: [0, 1, 0] }] as const;
  remembered.keepEdits("job", skeleton);
  expect(remembered.keptEdits("job")).toEqual(skeleton);
  expect(remembered.keptEdits("another")).toBeNull();
  remembered.keepEdits("job", null);
  expect(remembered.keptEdits("job")).toBeNull();
});

test("the models of edited skeletons add up", () => {
  remembered.rememberEdited("/uploads/s/a_edited.glb", "/uploads/s/a.glb");
  remembered.rememberEdited("/uploads/s/b_edited.glb", "/uploads/s/b.glb");
  expect(remembered.editedSkeletons()).toEqual({
    "/uploads/s/a_edited.glb": "/uploads/s/a.glb",
    "/uploads/s/b_edited.glb": "/uploads/s/b.glb",
  });
});

test("edits go with their jobs", () => {
  remembered.keepEdits("gone", []);
  remembered.keepEdits("here", []);
  remembered.rememberEdited("/uploads/s/gone_edited.glb", "/uploads/s/gone.glb");
  remembered.rememberEdited("/uploads/s/here_edited.glb", "/uploads/s/here.glb");
  remembered.forgetEditsBut([{ job_id: "here", input_file: "/uploads/s/here_edited.glb" }]);
  expect(remembered.keptEdits("gone")).toBeNull();
  expect(remembered.keptEdits("here")).toEqual([]);
  expect(Object.keys(remembered.editedSkeletons())).toEqual(["/uploads/s/here_edited.glb"]);
});
