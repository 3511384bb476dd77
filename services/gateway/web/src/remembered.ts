/** What the browser keeps between visits: the models' files and thumbnails, and where one was. */

import type { Edited } from "./projects";
import type { Skeleton } from "./skeleton";

const DATABASE = "unirig";
const FILES = "files";
const THUMBNAILS = "thumbnails";
const CURRENT = "unirig.current";
const EDITED = "unirig.edited";
const EDITS = "unirig.edits.";
// A few models: each may have 100 MB.
const MOST_FILES = 3;
const MOST_THUMBNAILS = 200;

interface Kept {
  path: string;
  blob: Blob;
  at: number;
}

let opened: Promise<IDBDatabase> | null = null;

function database(): Promise<IDBDatabase> {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => {
      for (const store of [FILES, THUMBNAILS]) {
        request.result.createObjectStore(store, { keyPath: "path" }).createIndex("at", "at");
      }
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function keep(store: string, path: string, blob: Blob, most: number): Promise<void> {
  const writing = (await database()).transaction(store, "readwrite");
  const objects = writing.objectStore(store);
  objects.put({ path, blob, at: Date.now() } satisfies Kept);
  const keys = objects.index("at").getAllKeys();
  keys.onsuccess = () => {
    for (const key of keys.result.slice(0, Math.max(0, keys.result.length - most))) {
      objects.delete(key);
    }
  };
  await new Promise((resolve, reject) => {
    writing.oncomplete = resolve;
    writing.onabort = () => reject(writing.error);
  });
}

async function remove(store: string, path: string): Promise<void> {
  (await database()).transaction(store, "readwrite").objectStore(store).delete(path);
}

async function find(store: string, path: string): Promise<Blob | null> {
  const request = (await database()).transaction(store).objectStore(store).get(path);
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve((request.result as Kept | undefined)?.blob ?? null);
    request.onerror = () => reject(request.error);
  });
}

/** What the browser will not keep, for want of room or of permission, is fetched or drawn anew. */
async function forgiving<T>(work: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await work;
  } catch {
    return otherwise;
  }
}

export const keepFile = (path: string, blob: Blob): Promise<void> =>
  forgiving(keep(FILES, path, blob, MOST_FILES), undefined);

export const findFile = (path: string): Promise<Blob | null> => forgiving(find(FILES, path), null);

export const keepThumbnail = (path: string, blob: Blob): Promise<void> =>
  forgiving(keep(THUMBNAILS, path, blob, MOST_THUMBNAILS), undefined);

export const findThumbnail = (path: string): Promise<Blob | null> =>
  forgiving(find(THUMBNAILS, path), null);

/** Forgets a model's file and picture. */
export const forget = (path: string): Promise<void> =>
  forgiving(Promise.all([remove(FILES, path), remove(THUMBNAILS, path)]).then(() => undefined), undefined);

/** The upload that was worked on last. */
export function currentUpload(): string | null {
  return localStorage.getItem(CURRENT);
}

export function setCurrentUpload(path: string | null): void {
  if (path === null) localStorage.removeItem(CURRENT);
  else localStorage.setItem(CURRENT, path);
}

/** Which model each edited skeleton belongs to: the service cannot know. */
export function editedSkeletons(): Edited {
  return JSON.parse(localStorage.getItem(EDITED) ?? "{}") as Edited;
}

export function rememberEdited(path: string, upload: string): void {
  localStorage.setItem(EDITED, JSON.stringify({ ...editedSkeletons(), [path]: upload }));
}

/** An edited skeleton that was not sent yet, by its skeleton job. */
export function keptEdits(job: string): Skeleton | null {
  const text = localStorage.getItem(EDITS + job);
  return text ? (JSON.parse(text) as Skeleton) : null;
}

export function keepEdits(job: string, skeleton: Skeleton | null): void {
  if (skeleton) localStorage.setItem(EDITS + job, JSON.stringify(skeleton));
  else localStorage.removeItem(EDITS + job);
}

/** Forgets edits, sent or not, that none of the session's jobs knows of any more. */
export function forgetEditsBut(jobs: readonly { job_id: string; input_file: string }[]): void {
  const known = new Set(jobs.flatMap((job) => [EDITS + job.job_id, job.input_file]));
  const keys = Array.from({ length: localStorage.length }, (_, place) => localStorage.key(place) ?? "");
  for (const key of keys) {
    if (key.startsWith(EDITS) && !known.has(key)) localStorage.removeItem(key);
  }
  const sent = Object.entries(editedSkeletons()).filter(([path]) => known.has(path));
  localStorage.setItem(EDITED, JSON.stringify(Object.fromEntries(sent)));
}
