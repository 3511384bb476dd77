/** What the page knows and what a person can do: signals that the panels show, and the actions. */

import { batch, computed, signal } from "@preact/signals";

import { type Api, ApiError, type DiskSpace, type Job, type JobType, type Upload } from "./api";
import {
  canRedo,
  canUndo,
  type History,
  record,
  redo,
  start,
  undo,
} from "./edit_history";
import { ended, follow, type Progress } from "./live_jobs";
import { checkModelFile } from "./model_file";
import { nameOf, type Project, projectOf, projectsOf } from "./projects";
import { explained } from "./refusals";
import * as remembered from "./remembered";
import type { Joint, Skeleton, Vector } from "./skeleton";
import type { ModelCounts, Viewer } from "./view/viewer";
import { skeletonOf, withSkeleton } from "./skeleton_glb";
import {
  counterpartName,
  mirrored,
  moved,
  movedWithChildren,
  outsideOf,
  renamed,
  withChild,
  withoutLeaf,
} from "./skeleton_edits";

export type Step = "model" | "skeleton" | "weights" | "download";
export const STEPS: readonly Step[] = ["model", "skeleton", "weights", "download"];
const EXAMPLE = "example.glb";
const EDITED_NAME = "_edited.glb";
// Pixels.
const THUMBNAIL = 128;

/** Where the result of a job is shown. */
const STEP_OF: Record<JobType, Step> = { skeleton: "skeleton", skinning: "weights", merge: "download" };

/** The model being worked on. upload: its path at the service, null while it is on its way. */
export interface Model {
  name: string;
  format: string;
  size: number | null;
  upload: string | null;
}

/** A file to be shown. */
interface Shown {
  bytes: ArrayBuffer;
  format: string;
  frame: boolean;
}

/** What went wrong, and what can be done about it at once. */
interface Trouble {
  text: string;
  actions: { label: string; run: () => void }[];
}

export class Studio {
  readonly step = signal<Step>("model");
  readonly model = signal<Model | null>(null);
  readonly shown = signal<Shown | null>(null);
  /** Why the model cannot be shown, though the service takes it. */
  readonly unseen = signal<string | null>(null);
  readonly uploading = signal<{ sent: number; total: number } | null>(null);
  readonly running = signal<{ job: Job; progress: Progress } | null>(null);
  readonly busy = signal(false);
  readonly trouble = signal<Trouble | null>(null);
  readonly project = signal<Project | null>(null);
  readonly projects = signal<Project[]>([]);
  readonly disk = signal<DiskSpace | null>(null);
  readonly uploadsLeft = signal<number | null>(null);

  readonly history = signal<History<Skeleton> | null>(null);
  readonly skeleton = computed<Skeleton | null>(() => this.history.value?.present ?? null);
  readonly dragged = signal<Skeleton | null>(null);
  readonly selected = signal<number | null>(null);
  readonly hovered = signal<number | null>(null);
  readonly children = signal(false);

  readonly heat = signal(true);
  readonly posing = signal(false);
  readonly swinging = signal(false);
  /** How far joints were turned from the rest pose, by their ids: degrees about X, Y and Z. */
  readonly pose = signal<ReadonlyMap<number, Vector>>(new Map());
  readonly counts = signal<ModelCounts | null>(null);
  viewer: Viewer | null = null;

  readonly selectedJoint = computed<Joint | null>(
    () => this.skeleton.value?.find((joint) => joint.id === this.selected.value) ?? null,
  );
  readonly undoable = computed(() => this.history.value !== null && canUndo(this.history.value));
  readonly redoable = computed(() => this.history.value !== null && canRedo(this.history.value));

  /** The result that is shown, which edits of its skeleton are written into. */
  #result: { job: string; glb: ArrayBuffer } | null = null;
  /** Ends what is under way for the model at hand, and what is fetched to be shown. */
  #work = new AbortController();
  #look = new AbortController();

  constructor(readonly api: Api) {}

  /** Whether there is something to see of a step. */
  has(step: Step): boolean {
    const project = this.project.value;
    if (step === "model") return this.model.value !== null;
    return (step === "skeleton" ? project?.skeleton : project?.skinning) != null;
  }

  /** Finds the session's earlier work again. */
  async restore(): Promise<void> {
    await this.#trying(async () => {
      await this.api.open();
      await this.#refresh();
      const upload = remembered.currentUpload();
      const project = this.projects.value.find((each) => each.upload === upload);
      const disk = await this.api.diskSpace();
      this.disk.value = disk.status === "ok" ? null : disk;
      if (project) await this.openProject(project);
      else if (upload) await this.#openUpload(upload);
    }, () => void this.restore());
  }

  /** Takes a file that was dropped or picked: shows it and sends it. */
  async openFile(file: File): Promise<void> {
    await this.#trying(async () => {
      const { format, problem } = await checkModelFile(file);
      if (problem || !format) throw new Error(`${file.name}: ${problem}`);
      const bytes = await file.arrayBuffer();
      this.closeProject();
      batch(() => {
        this.model.value = { name: file.name, format, size: file.size, upload: null };
        this.shown.value = { bytes, format, frame: true };
      });
      await this.#send(file);
    }, null);
  }

  async openExample(): Promise<void> {
    await this.#trying(async () => {
      const bytes = await this.api.file(`/${EXAMPLE}`);
      await this.openFile(new File([bytes], EXAMPLE));
    }, () => void this.openExample());
  }

  async #send(file: File): Promise<void> {
    await this.#trying(async () => {
      const upload = await this.#upload(file, file.name);
      this.model.value = this.model.value && { ...this.model.value, upload: upload.path };
      remembered.setCurrentUpload(upload.path);
      await remembered.keepFile(upload.path, file);
      await this.keepThumbnail();
    }, () => void this.#send(file));
  }

  async #upload(file: Blob, name: string): Promise<Upload> {
    const { signal } = this.#work;
    const report = (sent: number) => {
      if (!signal.aborted) this.uploading.value = { sent: Math.min(sent, file.size), total: file.size };
    };
    report(0);
    try {
      return await this.api.upload(file, name, report, signal);
    } finally {
      if (!signal.aborted) this.uploading.value = null;
      this.uploadsLeft.value = this.api.uploadsLeft;
    }
  }

  /** Keeps a small picture of what is shown, for the list of earlier models. */
  async keepThumbnail(): Promise<void> {
    const upload = this.model.value?.upload;
    if (!upload || !this.viewer || !this.counts.value) return;
    const picture = await this.viewer.screenshot(THUMBNAIL, THUMBNAIL);
    await remembered.keepThumbnail(upload, picture);
  }

  /** Back to the start, where all models are listed; nothing is deleted. */
  async leave(): Promise<void> {
    this.closeProject();
    await this.#trying(() => this.#refresh(), () => void this.leave());
  }

  closeProject(): void {
    this.#abandon();
    remembered.setCurrentUpload(null);
    batch(() => {
      this.step.value = "model";
      this.model.value = null;
      this.shown.value = null;
      this.trouble.value = null;
      this.project.value = null;
      this.#forgetResult();
    });
  }

  /** Waits for nothing any more. A job goes on at the service. */
  #abandon(): void {
    this.#work.abort();
    this.#look.abort();
    this.#work = new AbortController();
    batch(() => {
      this.uploading.value = null;
      this.running.value = null;
    });
  }

  async openProject(project: Project): Promise<void> {
    this.closeProject();
    remembered.setCurrentUpload(project.upload);
    const name = nameOf(project.upload);
    batch(() => {
      this.model.value = { name, format: formatOf(name), size: null, upload: project.upload };
      this.project.value = project;
    });
    const step = (["weights", "skeleton"] as const).find((each) => this.has(each)) ?? "model";
    await this.#trying(() => this.#showStep(step), () => void this.openProject(project));
    const [newest] = project.jobs;
    if (newest && !ended(newest)) await this.#follow(newest);
    else if (newest?.status === "failed") this.#sayFailed(newest, null);
  }

  async #openUpload(upload: string): Promise<void> {
    const name = nameOf(upload);
    this.model.value = { name, format: formatOf(name), size: null, upload };
    await this.#showStep("model");
  }

  async goTo(step: Step): Promise<void> {
    await this.#trying(() => this.#showStep(step), () => void this.goTo(step));
  }

  /** Shows the file that belongs to a step. Rejects with AbortError when another is asked for meanwhile. */
  async #showStep(step: Step): Promise<void> {
    this.#look.abort();
    this.#look = new AbortController();
    const { signal } = this.#look;
    const { skeleton, skinning } = this.project.value ?? {};
    const job = { model: null, skeleton, weights: skinning, download: skinning }[step];
    if (job) await this.#showResult(job, signal);
    else await this.#showUpload(signal);
    batch(() => {
      this.posing.value = false;
      this.swinging.value = false;
      this.rest();
      this.step.value = step;
    });
  }

  async #showUpload(signal: AbortSignal): Promise<void> {
    const model = this.model.value;
    if (!model?.upload) return;
    const kept = await remembered.findFile(model.upload);
    const bytes = kept && (await kept.arrayBuffer());
    signal.throwIfAborted();
    batch(() => {
      this.#forgetResult();
      this.shown.value = bytes && { bytes, format: model.format, frame: this.shown.value === null };
      if (!bytes) this.unseen.value = "This browser no longer has the file, but the service does.";
    });
  }

  async #showResult(job: Job, signal: AbortSignal): Promise<void> {
    if (this.#result?.job === job.job_id) return;
    const glb = await this.#glbOf(job);
    signal.throwIfAborted();
    const skeleton = skeletonOf(glb);
    const edits = job.type === "skeleton" ? remembered.keptEdits(job.job_id) : null;
    this.#result = { job: job.job_id, glb };
    batch(() => {
      this.unseen.value = null;
      this.shown.value = { bytes: glb, format: "glb", frame: this.shown.value === null };
      this.history.value = skeleton && (edits ? record(start(skeleton), edits) : start(skeleton));
      this.selected.value = null;
    });
  }

  async #glbOf(job: Job): Promise<ArrayBuffer> {
    const whole = job.artifacts ? job : await this.api.job(job.job_id);
    const glb = whole.artifacts?.find((each) => each.format === "glb");
    if (!glb) throw new Error("This result cannot be shown: it has no GLB file.");
    return this.api.file(glb.path);
  }

  #forgetResult(): void {
    this.#result = null;
    this.history.value = null;
    this.dragged.value = null;
    this.selected.value = null;
    this.hovered.value = null;
    this.unseen.value = null;
  }

  // Jobs

  async makeSkeleton(): Promise<void> {
    const upload = this.model.value?.upload;
    if (upload) await this.#run(() => this.api.makeSkeleton(upload));
  }

  /** Weights for the skeleton that the model came with. */
  async keepSkeleton(): Promise<void> {
    const upload = this.model.value?.upload;
    if (upload) await this.#run(() => this.api.makeWeights(upload));
  }

  /** Goes on with the skeleton as it is seen: an edited one is sent first. */
  async makeWeights(): Promise<void> {
    const job = this.project.value?.skeleton;
    if (job) await this.#run(async () => this.api.makeWeights(await this.#skeletonFile(job)));
  }

  async #skeletonFile(job: Job): Promise<string> {
    const { skeleton, model } = { skeleton: this.skeleton.value, model: this.model.value };
    const original = job.output_file ?? "";
    if (!this.undoable.value || !this.#result || !skeleton || !model?.upload) return original;
    const file = new Blob([withSkeleton(this.#result.glb, skeleton)]);
    const upload = await this.#upload(file, nameOf(original).replace(/\.\w+$/, EDITED_NAME));
    remembered.rememberEdited(upload.path, model.upload);
    return upload.path;
  }

  /** The rigged model in a format; an artifact that is already there is not made again. */
  async makeRig(format: string): Promise<void> {
    const { skinning } = this.project.value ?? {};
    const upload = this.model.value?.upload;
    if (!skinning || !upload) return;
    const request = {
      skeleton_file: skinning.input_file,
      skinning_file: skinning.output_file ?? "",
      target_file: upload,
      output_format: format,
    };
    await this.#run(() => this.api.merge(request));
  }

  /** Ends an upload or a job. A model that did not arrive is put away. */
  async cancel(): Promise<void> {
    const running = this.running.value;
    if (running) await this.#trying(() => this.api.cancel(running.job.job_id), null);
    else if (this.model.value?.upload) this.#abandon();
    else await this.leave();
  }

  async removeProject(project: Project): Promise<void> {
    await this.#trying(async () => {
      for (const job of project.jobs) await this.api.remove(job.job_id);
      await remembered.forget(project.upload);
      await this.#refresh();
    }, () => void this.removeProject(project));
  }

  async #run(create: () => Promise<Job>): Promise<void> {
    const { signal } = this.#work;
    const again = () => void this.#run(create);
    this.busy.value = true;
    const job = await this.#trying(async () => {
      try {
        return await create();
      } catch (error) {
        if (!(error instanceof ApiError) || error.code !== "CONCURRENT_JOB_LIMIT") throw error;
        return this.#activeJob(again);
      }
    }, again);
    this.busy.value = false;
    if (job && !signal.aborted) await this.#follow(job, again);
  }

  /** The job that is in the way of another, if it is this model's; a different model's is said. */
  async #activeJob(again: () => void): Promise<Job | null> {
    await this.#refresh();
    for (const { upload, jobs } of this.projects.value) {
      const active = jobs.find((job) => !ended(job));
      if (!active) continue;
      if (upload === this.model.value?.upload) return active;
      const name = nameOf(upload);
      const cancel = () => void this.#trying(() => this.api.cancel(active.job_id), null);
      this.trouble.value = {
        text: `${name} is still in the works, and there is one job at a time. Wait for it, or cancel it.`,
        actions: [...actionsOf(again), { label: `Cancel ${name}`, run: cancel }],
      };
      return null;
    }
    throw new Error("Another job has only just ended.");
  }

  async #follow(job: Job, again: (() => void) | null = null): Promise<void> {
    const { signal } = this.#work;
    const report = (progress: Progress) => {
      if (!signal.aborted) this.running.value = { job, progress };
    };
    await this.#trying(async () => {
      const done = await follow(this.api, job, report, signal);
      await this.#refresh();
      signal.throwIfAborted();
      if (done.status === "completed") await this.#showStep(STEP_OF[done.type]);
      else if (done.status === "failed") this.#sayFailed(done, again);
    }, () => void this.#follow(job, again));
    if (!signal.aborted) this.running.value = null;
  }

  /** The same file fails again where the fault is the file's. */
  #sayFailed({ error, error_code: code }: Job, again: (() => void) | null): void {
    const retry = code?.startsWith("INVALID") ? null : again;
    this.trouble.value = { text: error ?? "The job failed.", actions: actionsOf(retry) };
  }

  async #refresh(): Promise<void> {
    const { jobs, total } = await this.api.jobs();
    if (jobs.length === total) remembered.forgetEditsBut(jobs);
    const upload = this.model.value?.upload;
    batch(() => {
      this.projects.value = projectsOf(jobs, remembered.editedSkeletons());
      if (upload) {
        this.project.value =
          this.projects.value.find((each) => each.upload === upload) ?? projectOf(upload, []);
      }
    });
  }

  /**
   * Runs something; what goes wrong is shown, with a way to try it again, unless the model at hand
   * has been put away meanwhile.
   */
  async #trying<T>(work: () => Promise<T>, retry: (() => void) | null): Promise<T | null> {
    const { signal } = this.#work;
    this.trouble.value = null;
    try {
      return await work();
    } catch (error) {
      if (signal.aborted || (error instanceof DOMException && error.name === "AbortError")) return null;
      if (error instanceof ApiError) {
        const text = explained(error);
        this.trouble.value = { text, actions: actionsOf(error.passing ? retry : null) };
      } else {
        const text = error instanceof Error ? error.message : String(error);
        this.trouble.value = { text, actions: actionsOf(retry) };
      }
      return null;
    }
  }

  // Poses

  turn(id: number, degrees: Vector): void {
    this.viewer?.turn(id, degrees);
    this.turned(id, degrees);
  }

  /** Takes note of a joint that was turned in the view. */
  turned(id: number, degrees: Vector): void {
    this.pose.value = new Map(this.pose.value).set(id, degrees);
  }

  rest(): void {
    this.viewer?.resetPose();
    this.pose.value = new Map();
  }

  // Edits of the skeleton

  move(id: number, head: Vector, done: boolean): void {
    const move = this.children.value ? movedWithChildren : moved;
    if (done) this.#edit((skeleton) => move(skeleton, id, head));
    else if (this.skeleton.value) this.dragged.value = move(this.skeleton.value, id, head);
  }

  rename(id: number, name: string): void {
    this.#edit((skeleton) => renamed(skeleton, id, name));
  }

  addChild(id: number): void {
    this.#edit((skeleton) => {
      const { skeleton: result, id: child } = withChild(skeleton, id);
      this.selected.value = child;
      return result;
    });
  }

  deleteLeaf(id: number): void {
    this.#edit((skeleton) => {
      const result = withoutLeaf(skeleton, id);
      this.selected.value = skeleton.find((joint) => joint.id === id)?.parent ?? null;
      return result;
    });
  }

  mirror(id: number): void {
    this.#edit((skeleton) => {
      const result = mirrored(skeleton, id);
      if (!result) throw new Error("This joint is in the middle: there is nothing to mirror.");
      return result;
    });
  }

  mirrorable(joint: Joint): boolean {
    return counterpartName(joint.name) !== null;
  }

  undo(): void {
    if (this.history.value) this.#remember(undo(this.history.value));
  }

  redo(): void {
    if (this.history.value) this.#remember(redo(this.history.value));
  }

  #edit(change: (skeleton: Skeleton) => Skeleton): void {
    if (!this.skeleton.value) return;
    try {
      this.#record(change(this.skeleton.value));
      this.trouble.value = null;
    } catch (error) {
      this.trouble.value = { text: (error as Error).message, actions: [] };
    }
  }

  #record(skeleton: Skeleton): void {
    const bounds = this.viewer?.bounds();
    const outside = bounds && outsideOf(skeleton, ...bounds);
    this.dragged.value = null;
    if (outside) throw new Error(`Joint "${outside.name}" would lie outside the model.`);
    if (this.history.value) this.#remember(record(this.history.value, skeleton));
  }

  #remember(history: History<Skeleton>): void {
    batch(() => {
      this.dragged.value = null;
      this.history.value = history;
      if (!history.present.some((joint) => joint.id === this.selected.value)) {
        this.selected.value = null;
      }
    });
    const job = this.project.value?.skeleton?.job_id;
    // Only its own history: that of the weights' skeleton has no edits.
    if (job && job === this.#result?.job) remembered.keepEdits(job, canUndo(history) ? history.present : null);
  }
}

function actionsOf(retry: (() => void) | null): Trouble["actions"] {
  return retry ? [{ label: "Try again", run: retry }] : [];
}

function formatOf(name: string): string {
  return name.slice(name.lastIndexOf(".") + 1).toLowerCase();
}
