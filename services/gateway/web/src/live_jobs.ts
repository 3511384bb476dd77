/** Follows a job to its end: by the WebSocket as things happen, by asking where that is silent. */

import { type Api, ApiError, type Job } from "./api";

/** What is known of a job that is under way. */
export interface Progress {
  progress: number;
  message: string;
}

// With a socket the question is only a safeguard; a thousand requests an hour must last.
const ASK_WITH_SOCKET = 20_000;
const ASK_WITHOUT = 4_000;
const RECONNECT = [500, 1_000, 2_000, 4_000, 8_000];

export function ended(job: Job): boolean {
  return job.status !== "pending" && job.status !== "running";
}

/** The session that a path of a file belongs to. */
function sessionOf(path: string): string {
  return path.split("/")[2] ?? "";
}

/**
 * The job as it ended. Faults of the network are waited out.
 * Rejects with AbortError when signal is aborted, and with ApiError where the job is gone.
 */
export async function follow(
  api: Api,
  job: Job,
  report: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<Job> {
  const events = new JobEvents(job, report);
  try {
    let current = job;
    while (!ended(current)) {
      report({ progress: current.progress, message: said(current) });
      await events.next(signal);
      current = await patiently(() => api.job(job.job_id), current, report, signal);
    }
    return current;
  } finally {
    events.close();
  }
}

function said(job: Job): string {
  if (job.message) return job.message;
  return job.status === "pending" ? "Waiting for a worker" : "Starting";
}

async function patiently(
  ask: () => Promise<Job>,
  last: Job,
  report: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<Job> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof ApiError) || !error.passing) throw error;
      report({ progress: last.progress, message: "Waiting for the server" });
      await pause((error.retryAfter ?? 2) * 1000, signal);
    }
  }
}

/** One socket for one job, opened anew when it breaks. */
class JobEvents {
  #socket: WebSocket | null = null;
  #tries = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #wake: () => void = () => {};

  constructor(
    private readonly job: Job,
    private readonly report: (progress: Progress) => void,
  ) {
    this.#open();
  }

  close(): void {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  /** Resolves when it is time to ask for the job: it ended, the socket broke, or time went by. */
  async next(signal: AbortSignal): Promise<void> {
    const open = this.#socket?.readyState === WebSocket.OPEN;
    const woken = new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    await Promise.race([woken, pause(open ? ASK_WITH_SOCKET : ASK_WITHOUT, signal)]);
  }

  #open(): void {
    const address = new URL("/ws", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.searchParams.set("session", sessionOf(this.job.input_file));
    const socket = new WebSocket(address);
    this.#socket = socket;
    socket.onopen = () => {
      this.#tries = 0;
    };
    socket.onmessage = (message) => this.#take(JSON.parse(String(message.data)));
    socket.onclose = () => {
      if (this.#socket !== socket) return;
      this.#wake();
      const wait = RECONNECT[Math.min(this.#tries, RECONNECT.length - 1)];
      this.#tries += 1;
      this.#timer = setTimeout(() => this.#open(), wait);
    };
  }

  #take(event: { type: string; job_id: string; progress?: number; message?: string }): void {
    if (event.job_id !== this.job.job_id) return;
    if (event.type !== "job_progress") this.#wake();
    else {
      const { progress = 0, message = "" } = event;
      this.report({ progress, message });
    }
  }
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("Cancelled", "AbortError"));
    };
    if (signal.aborted) return stop();
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}
