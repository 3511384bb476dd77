/** What the page knows and what a person can do: signals that the panels show, and the actions. */

import { batch, computed, signal } from "@preact/signals";

import { type Api, ApiError, type Artifact, type DiskSpace, type Job } from "./api";
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
export const EXAMPLE = "example.glb";
const EDITED_NAME = "_edited.glb";
// Pixels.
const THUMBNAIL = 128;

/** The model being worked on. upload: its path at the service, null while it is on its way. */
export interface Model {
  name: string;
  format: string;
  size: number | null;
  upload: string | null;
}

/** A file to be shown. */
export interface Shown {
  bytes: ArrayBuffer;
  format: string;
  frame: boolean;
}

/** What went wrong, and what to do about it. */
export interface Trouble {
  text: string;
  retry: (() => void) | null;
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
  readonly edited = computed(() => this.history.value !== null && canUndo(this.history.value));
  readonly undoable = computed(() => this.history.value !== null && canUndo(this.history.value));
  readonly redoable = computed(() => this.history.value !== null && canRedo(this.history.value));
  /** The last step that there is something to see of. */
  readonly reached = computed<Step>(() => {
    const project = this.project.value;
    if (project?.skinning) return "download";
    return project?.skeleton ? "skeleton" : "model";
  });

  /** The skeleton job's GLB, which edits are written into. */
  #skeletonGlb: ArrayBuffer | null = null;
  /** The job whose result is shown, if it is one. */
  #shownJob: string | null = null;
  #work = new AbortController();

  constructor(readonly api: Api) {}

  /** Finds the session's earlier work again. */
  async restore(): Promise<void> {
    await this.#trying(async () => {
      await this.api.open();
      await this.#refresh();
      const upload = remembered.currentUpload();
      const project = this.projects.value.find((each) => each.upload === upload);
      if (project) await this.openProject(project);
      else if (upload) await this.#openUpload(upload);
      const disk = await this.api.diskSpace();
      this.disk.value = disk.status === "ok" ? null : disk;
    }, () => void this.restore());
  }

  /** Takes a file that was dropped or picked: shows it and sends it. */
  async openFile(file: File): Promise<void> {
    const { format, problem } = await checkModelFile(file);
    if (problem || !format) {
      this.trouble.value = { text: `${file.name}: ${problem}`, retry: null };
      return;
    }
    this.closeProject();
    const bytes = await file.arrayBuffer();
    batch(() => {
      this.model.value = { name: file.name, format, size: file.size, upload: null };
      this.shown.value = { bytes, format, frame: true };
    });
    await this.#send(file);
  }

  async openExample(): Promise<void> {
    await this.#trying(async () => {
      const bytes = await this.api.file(`/${EXAMPLE}`);
      await this.openFile(new File([bytes], EXAMPLE));
    }, () => void this.openExample());
  }

  async #send(file: File): Promise<void> {
    const signal = this.#work.signal;
    await this.#trying(async () => {
      this.uploading.value = { sent: 0, total: file.size };
      const report = (sent: number) => {
        this.uploading.value = { sent: Math.min(sent, file.size), total: file.size };
      };
      const upload = await this.api.upload(file, file.name, report, signal);
      this.model.value = this.model.value && { ...this.model.value, upload: upload.path };
      remembered.setCurrentUpload(upload.path);
      await remembered.keepFile(upload.path, file);
      await this.keepThumbnail();
    }, () => void this.#send(file));
    batch(() => {
      this.uploading.value = null;
      this.uploadsLeft.value = this.api.uploadsLeft;
    });
  }

  /** Keeps a small picture of what is shown, for the list of earlier models. */
  async keepThumbnail(): Promise<void> {
    const upload = this.model.value?.upload;
    if (!upload || !this.viewer || !this.counts.value) return;
    const picture = await this.viewer.screenshot(THUMBNAIL, THUMBNAIL);
    await remembered.keepThumbnail(upload, picture);
  }

  /** Back to the start; nothing is deleted. */
  closeProject(): void {
    this.#work.abort();
    this.#work = new AbortController();
    remembered.setCurrentUpload(null);
    batch(() => {
      this.step.value = "model";
      this.model.value = null;
      this.shown.value = null;
      this.unseen.value = null;
      this.uploading.value = null;
      this.running.value = null;
      this.trouble.value = null;
      this.project.value = null;
      this.#forgetSkeleton();
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
    const job = project.jobs.find((each) => !ended(each));
    await this.#trying(
      () => this.#showStage(this.reached.value === "download" ? "weights" : this.reached.value),
      () => void this.openProject(project),
    );
    if (job) await this.#follow(job);
  }

  async #openUpload(upload: string): Promise<void> {
    const name = nameOf(upload);
    this.model.value = { name, format: formatOf(name), size: null, upload };
    await this.#showStage("model");
  }

  async goTo(step: Step): Promise<void> {
    await this.#trying(() => this.#showStage(step), () => void this.goTo(step));
  }

  /** Shows the file that belongs to a step. */
  async #showStage(step: Step): Promise<void> {
    const project = this.project.value;
    const frame = this.shown.value === null;
    batch(() => {
      this.posing.value = false;
      this.swinging.value = false;
      this.pose.value = new Map();
    });
    if (step === "model") await this.#showUpload(frame);
    else if (step === "skeleton" && project?.skeleton) {
      await this.#showSkeleton(project.skeleton, frame);
    } else if (project?.skinning) await this.#showWeights(project.skinning, frame);
    this.step.value = step;
  }

  async #showUpload(frame: boolean): Promise<void> {
    const model = this.model.value;
    if (!model) return;
    const kept = model.upload && (await remembered.findFile(model.upload));
    const bytes = kept ? await kept.arrayBuffer() : null;
    batch(() => {
      this.#forgetSkeleton();
      if (bytes) this.shown.value = { bytes, format: model.format, frame };
      else this.unseen.value = "This browser no longer has the file, but the service does.";
    });
  }

  async #showSkeleton(job: Job, frame: boolean): Promise<void> {
    if (this.#shownJob === job.job_id) return;
    const bytes = await this.#glbOf(job);
    const original = skeletonOf(bytes);
    const edits = remembered.keptEdits(job.job_id);
    this.#skeletonGlb = bytes;
    this.#shownJob = job.job_id;
    batch(() => {
      this.shown.value = { bytes, format: "glb", frame };
      this.history.value = original && start(original);
      if (edits && this.history.value) this.history.value = record(this.history.value, edits);
      this.selected.value = null;
    });
  }

  async #showWeights(job: Job, frame: boolean): Promise<void> {
    if (this.#shownJob === job.job_id) return;
    const bytes = await this.#glbOf(job);
    const skeleton = skeletonOf(bytes);
    this.#skeletonGlb = null;
    this.#shownJob = job.job_id;
    batch(() => {
      this.shown.value = { bytes, format: "glb", frame };
      this.history.value = skeleton && start(skeleton);
      this.selected.value = null;
    });
  }

  async #glbOf(job: Job): Promise<ArrayBuffer> {
    const whole = job.artifacts ? job : await this.api.job(job.job_id);
    const glb = whole.artifacts?.find((each) => each.format === "glb");
    if (!glb) throw new Error("This result cannot be shown: it has no GLB file.");
    return this.api.file(glb.path);
  }

  #forgetSkeleton(): void {
    this.#skeletonGlb = null;
    this.#shownJob = null;
    this.history.value = null;
    this.dragged.value = null;
    this.selected.value = null;
    this.hovered.value = null;
    this.unseen.value = null;
  }

  // Jobs

  async makeSkeleton(): Promise<void> {
    const upload = this.model.value?.upload;
    if (upload) await this.#run(() => this.api.makeSkeleton(upload), "skeleton");
  }

  /** Goes on with the skeleton as it is seen: an edited one is sent first. */
  async makeWeights(): Promise<void> {
    const job = this.project.value?.skeleton;
    if (!job) return;
    await this.#run(async () => this.api.makeWeights(await this.#skeletonFile(job)), "weights");
  }

  async #skeletonFile(job: Job): Promise<string> {
    const { skeleton, model } = { skeleton: this.skeleton.value, model: this.model.value };
    const glb = this.#skeletonGlb;
    if (!this.edited.value || !glb || !skeleton || !model?.upload) return job.output_file ?? "";
    const file = new Blob([withSkeleton(glb, skeleton)]);
    const name = nameOf(job.output_file ?? "skeleton").replace(/\.\w+$/, EDITED_NAME);
    const upload = await this.api.upload(file, name, () => {}, this.#work.signal);
    this.uploadsLeft.value = this.api.uploadsLeft;
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
    await this.#run(() => this.api.merge(request), "download");
  }

  /** What the merge job made, in the order of the service. */
  async artifacts(): Promise<Artifact[]> {
    const merge = this.project.value?.merge;
    return merge ? ((await this.api.job(merge.job_id)).artifacts ?? []) : [];
  }

  async cancel(): Promise<void> {
    const running = this.running.value;
    if (running) await this.#trying(() => this.api.cancel(running.job.job_id), null);
  }

  async removeProject(project: Project): Promise<void> {
    await this.#trying(async () => {
      for (const job of project.jobs) await this.api.remove(job.job_id);
      await this.#refresh();
      if (this.model.value?.upload === project.upload) this.closeProject();
    }, null);
  }

  async #run(create: () => Promise<Job>, step: Step): Promise<void> {
    this.busy.value = true;
    const again = () => void this.#run(create, step);
    const job = await this.#trying(create, again);
    this.busy.value = false;
    if (job) await this.#follow(job, again);
  }

  async #follow(job: Job, again: (() => void) | null = null): Promise<void> {
    const signal = this.#work.signal;
    const report = (progress: Progress) => {
      if (!signal.aborted) this.running.value = { job, progress };
    };
    await this.#trying(async () => {
      const done = await follow(this.api, job, report, signal);
      await this.#refresh();
      if (done.status === "completed") {
        await this.#showStage(
          { skeleton: "skeleton", skinning: "weights", merge: "download" }[done.type] as Step,
        );
      } else if (done.status === "failed") {
        this.trouble.value = { text: done.error ?? "The job failed.", retry: again };
      }
    }, () => void this.#follow(job, again));
    if (!signal.aborted) this.running.value = null;
  }

  async #refresh(): Promise<void> {
    const { jobs } = await this.api.jobs();
    const upload = this.model.value?.upload;
    batch(() => {
      this.projects.value = projectsOf(jobs, remembered.editedSkeletons());
      if (upload) {
        this.project.value =
          this.projects.value.find((each) => each.upload === upload) ?? projectOf(upload, []);
      }
    });
  }

  /** Runs something; what goes wrong is shown, with a way to try it again. */
  async #trying<T>(work: () => Promise<T>, retry: (() => void) | null): Promise<T | null> {
    this.trouble.value = null;
    try {
      return await work();
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return null;
      const again = error instanceof ApiError && !error.passing ? null : retry;
      const text = error instanceof Error ? error.message : String(error);
      this.trouble.value = { text, retry: again };
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
      this.trouble.value = { text: (error as Error).message, retry: null };
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
    const job = this.project.value?.skeleton;
    if (job) remembered.keepEdits(job.job_id, canUndo(history) ? history.present : null);
  }
}

export function formatOf(name: string): string {
  return name.slice(name.lastIndexOf(".") + 1).toLowerCase();
}
