import { afterEach, describe, expect, test, vi } from "vitest";

import { Api, ApiError, refusal } from "./api";

afterEach(() => vi.unstubAllGlobals());

/** Answers requests in turn; the calls are kept. */
function server(...answers: [number, object][]): Request[] {
  const calls: Request[] = [];
  vi.stubGlobal("fetch", async (path: string, init: RequestInit) => {
    calls.push(new Request(`http://service${path}`, init));
    const [status, body] = answers.shift() ?? [500, {}];
    return new Response(JSON.stringify(body), { status });
  });
  return calls;
}

describe("refusal", () => {
  test("says what the service says", () => {
    const body = { detail: "Rate limit exceeded.", error_code: "RATE_LIMIT_EXCEEDED", retry_after: 60 };
    const error = refusal(429, JSON.stringify(body));
    expect([error.message, error.code, error.retryAfter]).toEqual([
      "Rate limit exceeded.",
      "RATE_LIMIT_EXCEEDED",
      60,
    ]);
    expect(error.passing).toBe(true);
  });

  test.each(["<html>Bad Gateway</html>", "", '{"other": 1}'])("bears with a proxy's %j", (body) => {
    expect(refusal(502, body).message).toContain("502");
  });

  test("what the user must mend does not pass by itself", () => {
    expect(refusal(400, '{"detail": "Wrong", "error_code": "INVALID_REQUEST"}').passing).toBe(false);
  });
});

describe("Api", () => {
  test("a change carries the session's token, which is asked for once", async () => {
    const calls = server([200, { csrf_token: "t" }], [200, {}], [200, {}]);
    const api = new Api();
    await api.makeSkeleton("/uploads/s/a.glb");
    await api.cancel("some/job");
    expect(calls.map((call) => [call.method, new URL(call.url).pathname])).toEqual([
      ["GET", "/api/csrf-token"],
      ["POST", "/api/jobs/skeleton"],
      ["POST", "/api/jobs/some%2Fjob/cancel"],
    ]);
    expect(calls[1]?.headers.get("X-CSRF-Token")).toBe("t");
    expect(await calls[1]?.json()).toEqual({ input_file: "/uploads/s/a.glb" });
  });

  test("a token that is no longer valid is replaced once", async () => {
    const refused = { detail: "no", error_code: "CSRF_TOKEN_INVALID" };
    const calls = server(
      [200, { csrf_token: "old" }],
      [403, refused],
      [200, { csrf_token: "new" }],
      [403, refused],
    );
    await expect(new Api().remove("id")).rejects.toThrow(ApiError);
    expect(calls.map((call) => call.headers.get("X-CSRF-Token"))).toEqual([null, "old", null, "new"]);
  });

  test("a network that is down is said in words", async () => {
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("Failed to fetch")));
    await expect(new Api().jobs()).rejects.toMatchObject({ status: 0, passing: true });
  });
});
