/** A session's jobs as people see them: one project for each model, with what was made of it. */

import type { Job, JobType } from "./api";

/**
 * upload: the path of the model. skeleton, skinning, merge: the newest completed job of each kind,
 * as far as they belong together. jobs: all of the model's, newest first.
 */
export interface Project {
  upload: string;
  jobs: Job[];
  skeleton: Job | null;
  skinning: Job | null;
  merge: Job | null;
}

/** What the page remembers of an edited skeleton that it sent: its path, and the model's. */
export type Edited = Readonly<Record<string, string>>;

/** The name of the file that a path leads to. */
export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** Projects, the one with the newest job first. jobs: newest first, as the service lists them. */
export function projectsOf(jobs: readonly Job[], edited: Edited): Project[] {
  const models = new Map<string, string>(Object.entries(edited));
  const groups = new Map<string, Job[]>();
  for (const job of [...jobs].reverse()) {
    const upload = models.get(job.input_file) ?? job.input_file;
    if (job.output_file) models.set(job.output_file, upload);
    groups.set(upload, [job, ...(groups.get(upload) ?? [])]);
  }
  const projects = [...groups].map(([upload, own]) => projectOf(upload, own));
  const newest = (project: Project) => jobs.indexOf(project.jobs[0] as Job);
  return projects.sort((a, b) => newest(a) - newest(b));
}

/**
 * jobs: one model's, newest first. A later stage counts only if it is newer than the earlier, and
 * none of ours is the skeleton where the weights were made for the model's own.
 */
export function projectOf(upload: string, jobs: Job[]): Project {
  const made = (type: JobType) =>
    jobs.find((job) => job.type === type && job.status === "completed") ?? null;
  const after = (job: Job | null, earlier: Job | null) =>
    job && (!earlier || jobs.indexOf(job) < jobs.indexOf(earlier)) ? job : null;
  const skeleton = made("skeleton");
  const skinning = after(made("skinning"), skeleton);
  const merge = skinning && after(made("merge"), skinning);
  const own = skinning?.input_file === upload;
  return { upload, jobs, skeleton: own ? null : skeleton, skinning, merge };
}
