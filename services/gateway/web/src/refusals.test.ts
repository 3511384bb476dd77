import { expect, test } from "vitest";

import { ApiError } from "./api";
import { explained } from "./refusals";

test("a limit says when it ends, once", () => {
  const text = "Rate limit exceeded. Maximum 10 uploads per hour.";
  expect(explained(new ApiError(text, 429, "RATE_LIMIT_EXCEEDED", 2461))).toBe(`${text} Try again in 42 minutes.`);
  expect(explained(new ApiError(text, 429, "RATE_LIMIT_EXCEEDED", 1))).toBe(`${text} Try again in 1 second.`);
  const whole = "Rate limit exceeded. Try again in 45 minutes.";
  expect(explained(new ApiError(whole, 429, "RATE_LIMIT_EXCEEDED", 2700))).toBe(whole);
});

test("a full storage and a file that is gone say what can be done", () => {
  expect(explained(new ApiError("The storage is full.", 503, "STORAGE_FULL"))).toContain("Delete earlier models");
  expect(explained(new ApiError("File not found", 404, "FILE_NOT_FOUND"))).toContain("Choose the model again");
});

test("other refusals stay as they are", () => {
  expect(explained(new ApiError("Job not found", 404, "JOB_NOT_FOUND"))).toBe("Job not found");
});
