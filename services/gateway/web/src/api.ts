/** The service's REST API, as the page uses it. Fields and codes are those of docs/api.md. */

export type JobType = "skeleton" | "skinning" | "merge";
export type JobStatus = "pending" | "running" | "completed" | "failed" | "cancelled";

export interface Artifact {
  format: string;
  path: string;
  size: number;
}

export interface Job {
  job_id: string;
  status: JobStatus;
  type: JobType;
  progress: number;
  created_at: string;
  completed_at: string | null;
  input_file: string;
  output_file: string | null;
  error: string | null;
  error_code: string | null;
  /** Only where a job is asked for by its id. */
  started_at?: string | null;
  message?: string | null;
  artifacts?: Artifact[];
  engine?: string;
  engine_version?: string;
  notes?: string[];
}

export interface Upload {
  filename: string;
  path: string;
  size: number;
}

export interface DiskSpace {
  free: number;
  status: "ok" | "warning" | "critical";
}

export interface MergeRequest {
  skeleton_file: string;
  skinning_file: string;
  target_file: string;
  output_format: string;
}

/** What the service refused, in its own words; status 0: it was not reached. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }

  /** Whether the same request may succeed a little later without anybody doing anything. */
  get passing(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

const OUT_OF_REACH = "The server cannot be reached. Check the connection and try again.";

export class Api {
  /** How many uploads are left in this hour; null before the first. */
  uploadsLeft: number | null = null;
  #token: string | null = null;

  /** Makes sure that there is a session, and a token for it. */
  async open(): Promise<void> {
    this.#token ??= (await this.#json<{ csrf_token: string }>("GET", "/api/csrf-token")).csrf_token;
  }

  jobs(): Promise<{ jobs: Job[]; total: number }> {
    return this.#json("GET", "/api/jobs?limit=200");
  }

  job(id: string): Promise<Job> {
    return this.#json("GET", `/api/jobs/${encodeURIComponent(id)}`);
  }

  makeSkeleton(inputFile: string): Promise<Job> {
    return this.#change("POST", "/api/jobs/skeleton", { input_file: inputFile });
  }

  makeWeights(inputFile: string): Promise<Job> {
    return this.#change("POST", "/api/jobs/skinning", { input_file: inputFile });
  }

  merge(request: MergeRequest): Promise<Job> {
    return this.#change("POST", "/api/jobs/merge", { ...request });
  }

  cancel(id: string): Promise<unknown> {
    return this.#change("POST", `/api/jobs/${encodeURIComponent(id)}/cancel`);
  }

  remove(id: string): Promise<unknown> {
    return this.#change("DELETE", `/api/jobs/${encodeURIComponent(id)}`);
  }

  diskSpace(): Promise<DiskSpace> {
    return this.#json("GET", "/api/disk-space");
  }

  /** A result's bytes. */
  async file(path: string): Promise<ArrayBuffer> {
    return (await this.#answer("GET", path)).arrayBuffer();
  }

  /** Sends a file; report is told how many bytes are on their way. Rejects with AbortError. */
  async upload(
    file: Blob,
    name: string,
    report: (sent: number) => void,
    signal: AbortSignal,
  ): Promise<Upload> {
    await this.open();
    try {
      return await this.#send(file, name, report, signal);
    } catch (error) {
      if (!this.#expired(error)) throw error;
      await this.open();
      return this.#send(file, name, report, signal);
    }
  }

  /** XMLHttpRequest, since fetch does not tell how much of a body was sent. */
  #send(
    file: Blob,
    name: string,
    report: (sent: number) => void,
    signal: AbortSignal,
  ): Promise<Upload> {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      const abort = () => request.abort();
      signal.addEventListener("abort", abort);
      request.upload.onprogress = (event) => report(event.loaded);
      request.onabort = () => reject(new DOMException("Cancelled", "AbortError"));
      request.onerror = () => reject(new ApiError(OUT_OF_REACH, 0, ""));
      request.onload = () => {
        const left = request.getResponseHeader("X-RateLimit-Remaining");
        if (left !== null) this.uploadsLeft = Number(left);
        if (request.status === 200) resolve(JSON.parse(request.responseText) as Upload);
        else reject(refusal(request.status, request.responseText));
      };
      request.onloadend = () => signal.removeEventListener("abort", abort);
      request.open("POST", "/api/upload");
      request.setRequestHeader("X-CSRF-Token", this.#token ?? "");
      const form = new FormData();
      form.append("file", file, name);
      request.send(form);
    });
  }

  async #change<T>(method: string, path: string, body?: object): Promise<T> {
    await this.open();
    try {
      return await this.#json<T>(method, path, body);
    } catch (error) {
      if (!this.#expired(error)) throw error;
      await this.open();
      return this.#json<T>(method, path, body);
    }
  }

  /** Whether a token was refused; it is forgotten, so that the next open() asks for another. */
  #expired(error: unknown): boolean {
    const expired = error instanceof ApiError && error.code.startsWith("CSRF_TOKEN");
    if (expired) this.#token = null;
    return expired;
  }

  async #json<T>(method: string, path: string, body?: object): Promise<T> {
    return (await this.#answer(method, path, body)).json() as Promise<T>;
  }

  async #answer(method: string, path: string, body?: object): Promise<Response> {
    const headers: Record<string, string> = {};
    if (method !== "GET") headers["X-CSRF-Token"] = this.#token ?? "";
    if (body) headers["Content-Type"] = "application/json";
    let response: Response;
    try {
      response = await fetch(path, { method, headers, body: body ? JSON.stringify(body) : null });
    } catch {
      throw new ApiError(OUT_OF_REACH, 0, "");
    }
    if (!response.ok) throw refusal(response.status, await response.text());
    return response;
  }
}

/** The error that an answer's body describes; proxies answer with pages of their own. */
export function refusal(status: number, body: string): ApiError {
  try {
    const { detail, error_code, retry_after } = JSON.parse(body) as Record<string, unknown>;
    if (typeof detail === "string") {
      const seconds = typeof retry_after === "number" ? retry_after : null;
      return new ApiError(detail, status, String(error_code ?? ""), seconds);
    }
  } catch {
    // Not ours: said below.
  }
  return new ApiError(`The server answered with status ${status}. Try again later.`, status, "");
}
