import { describe, expect, test } from "vitest";
import { canRedo, canUndo, record, redo, start, undo } from "./edit_history";

describe("the history of edits", () => {
  const three = record(record(start("a"), "b"), "c");

  test("goes back and forth one step at a time", () => {
    expect(undo(three).present).toBe("b");
    expect(undo(undo(three)).present).toBe("a");
    expect(redo(undo(undo(three))).present).toBe("b");
    expect(redo(undo(three))).toEqual(three);
  });

  test("says where it ends", () => {
    const [first, last] = [undo(undo(three)), three];
    expect([canUndo(first), canRedo(first)]).toEqual([false, true]);
    expect([canUndo(last), canRedo(last)]).toEqual([true, false]);
    expect(undo(first).present).toBe("a");
    expect(redo(last).present).toBe("c");
  });

  test("forgets what was undone once something new is done", () => {
    const other = record(undo(three), "d");
    expect(canRedo(other)).toBe(false);
    expect(undo(other).present).toBe("b");
  });

  test("takes the same value for no step", () => {
    expect(record(three, "c")).toBe(three);
  });
});
