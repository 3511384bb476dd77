import { expect, test } from "vitest";

import { count, duration, megabytes } from "./sizes";

test.each([
  [0, "0.0\u00a0MB"],
  [863_664, "0.8\u00a0MB"],
  [100 * 2 ** 20, "100\u00a0MB"],
])("%d bytes are %s", (bytes, text) => expect(megabytes(bytes)).toBe(text));

test.each([
  ["2025-11-13T10:30:00Z", "2025-11-13T10:30:12Z", "12\u00a0s"],
  ["2025-11-13T10:30:00Z", "2025-11-13T10:32:05Z", "2\u00a0min 5\u00a0s"],
  ["2025-11-13T10:30:01Z", "2025-11-13T10:30:00Z", "0\u00a0s"],
])("from %s to %s it is %s", (from, to, text) => expect(duration(from, to)).toBe(text));

test("thousands are told apart", () => expect(count(20324)).toBe("20,324"));
