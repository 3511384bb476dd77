/** The view of the model: what the page asks of it, and when a frame is drawn. */

import { NeutralToneMapping, Scene, Sphere, Vector3, WebGLRenderer } from "three";
import type { Skeleton, Vector } from "../skeleton";
import { FloorGrid } from "./floor_grid";
import { hasGraphicsCard } from "./graphics_card";
import { JointGizmo } from "./joint_gizmo";
import { JointPointer } from "./joint_pointer";
import { Lighting } from "./lighting";
import {
  disposeModel,
  type LoadedModel,
  loadModel,
  materialsOf,
  meshesOf,
  type ModelCounts,
  skinnedMeshesOf,
} from "./load_model";
import { OrbitCamera } from "./orbit_camera";
import { Pose } from "./pose";
import { fineRatio, nextRatio } from "./sharpness";
import { SkeletonOverlay } from "./skeleton_overlay";
import { WeightHeat } from "./weight_heat";

export type { ModelCounts };
export type ViewerMode = "look" | "edit" | "pose";

export interface ViewerEvents {
  /** A click on a joint, or on nothing. */
  select(id: number | null): void;
  hover(id: number | null): void;
  /** A joint is dragged; done at its end. The new place shows once the page sets the skeleton. */
  moveJoint(id: number, head: Vector, done: boolean): void;
  /** A joint was turned by hand. */
  poseJoint(id: number): void;
}

const THEMES = {
  light: { background: "radial-gradient(ellipse at 50% 42%, #f6f6f5, #dcdcda)", grid: [0.42, 0.42, 0.44] },
  dark: { background: "radial-gradient(ellipse at 50% 42%, #3a3b3f, #1e1f22)", grid: [0.62, 0.62, 0.66] },
} as const;

// Milliseconds without a change after which the view is drawn in full.
const REST = 160;
// Milliseconds that a motion's first frame counts as.
const FIRST_STEP = 16;

interface ShownModel extends LoadedModel {
  readonly pose: Pose;
  readonly heat: WeightHeat;
}

export class Viewer {
  private readonly renderer: WebGLRenderer;
  private readonly multisampled: boolean;
  private readonly scene = new Scene();
  private readonly orbit: OrbitCamera;
  private readonly lighting = new Lighting();
  private readonly grid = new FloorGrid();
  private readonly overlay = new SkeletonOverlay();
  private readonly gizmo: JointGizmo;
  private readonly pointer: JointPointer;
  private readonly resizing: ResizeObserver;

  private model: ShownModel | null = null;
  private showing = 0;
  private skeleton: Skeleton = [];
  private selected: number | null = null;
  private hovered: number | null = null;
  private mode: ViewerMode = "look";
  private heated: string | null = null;
  private wireframe = false;
  private gridShown = true;
  private swingingSince: number | null = null;

  private frameAsked = 0;
  private restTimer = 0;
  private lastDrawn: number | null = null;
  private fineRatio = 1;
  private movingRatio = 1;

  /** Fills the canvas's parent. Throws an Error with a sentence for the user where there is no WebGL. */
  constructor(
    private readonly canvas: HTMLCanvasElement,
    events: ViewerEvents,
  ) {
    // Multisampling doubles the time of a frame where no graphics card does it.
    this.multisampled = hasGraphicsCard();
    try {
      this.renderer = new WebGLRenderer({ canvas, antialias: this.multisampled, alpha: true });
    } catch (error) {
      throw new Error("This browser cannot show 3D: WebGL 2 is missing or switched off.", { cause: error });
    }
    this.renderer.toneMapping = NeutralToneMapping;
    this.renderer.autoClear = false;
    canvas.tabIndex = 0;
    this.scene.add(this.lighting.object, this.grid.object);
    this.orbit = new OrbitCamera(canvas, this.wake);
    this.gizmo = new JointGizmo(this.orbit.camera, canvas, this.overlay.scene, {
      change: this.wake,
      dragging: (on) => (this.orbit.enabled = !on),
      moved: (to, done) => this.selected !== null && events.moveJoint(this.selected, to.toArray(), done),
      turned: () => this.selected !== null && events.poseJoint(this.selected),
    });
    this.pointer = new JointPointer(canvas, this.orbit.camera, this.overlay, {
      near: (id) => this.gizmo.yieldPointer(id !== null && id !== this.selected),
      taken: () => this.gizmo.held,
      mayDrag: () => this.mode === "edit",
      hover: (id) => events.hover(id),
      select: (id) => events.select(id),
      dragging: (on) => (this.orbit.enabled = !on),
      moved: (id, to, done) => events.moveJoint(id, to.toArray(), done),
    });
    canvas.addEventListener("webglcontextrestored", this.wake);
    this.resizing = new ResizeObserver(() => this.resize());
    this.resizing.observe(canvas.parentElement ?? canvas);
    this.setTheme("light");
  }

  dispose(): void {
    this.clear();
    cancelAnimationFrame(this.frameAsked);
    clearTimeout(this.restTimer);
    this.resizing.disconnect();
    this.canvas.removeEventListener("webglcontextrestored", this.wake);
    for (const part of [this.pointer, this.gizmo, this.orbit, this.overlay, this.grid, this.lighting, this.renderer]) {
      part.dispose();
    }
  }

  setTheme(theme: "light" | "dark"): void {
    // The background is the canvas's own, behind what is drawn: it costs no time at each frame.
    this.canvas.style.background = THEMES[theme].background;
    this.grid.setColour(THEMES[theme].grid);
    this.wake();
  }

  /**
   * Shows a model file; frames it when asked.
   *
   * Rejects with a sentence for the user where it cannot be shown, and with an AbortError where a
   * later call came before it was read; the earlier model stays.
   */
  async show(bytes: ArrayBuffer, format: string, options: { frame: boolean }): Promise<ModelCounts> {
    const turn = ++this.showing;
    const loaded = await loadModel(bytes, format);
    if (turn !== this.showing) {
      disposeModel(loaded.object);
      throw new DOMException("Another model is shown by now.", "AbortError");
    }
    this.drop();
    this.model = { ...loaded, pose: new Pose(loaded.object), heat: new WeightHeat(loaded.object) };
    // A skinned mesh leaves its first bounds when posed, and to follow them costs more than drawing it.
    for (const mesh of skinnedMeshesOf(loaded.object)) {
      mesh.frustumCulled = false;
      mesh.boundingSphere = loaded.box.getBoundingSphere(new Sphere());
    }
    this.scene.add(loaded.object);
    this.scene.environment = this.lighting.reflections(this.renderer, loaded.object);
    this.grid.place(loaded.box);
    this.grid.object.visible = this.gridShown;
    // A result is in metres, whatever the unit of the file that was shown before.
    if (options.frame) this.orbit.frame(loaded.box, "the front");
    else this.orbit.reframe(loaded.box);
    this.setWireframe(this.wireframe);
    this.model.heat.show(this.heated);
    if (this.swingingSince !== null) this.model.pose.startSwinging(this.skeleton);
    this.placeGizmo();
    return loaded.counts;
  }

  /** The corners of the model's bounding box as it stands in the file. */
  bounds(): readonly [Vector, Vector] | null {
    const box = this.model?.box;
    return box ? [box.min.toArray(), box.max.toArray()] : null;
  }

  clear(): void {
    this.showing++;
    this.drop();
    this.grid.object.visible = false;
    this.placeGizmo();
  }

  /** Fits the model into the view, seen from where the camera is. */
  frame(): void {
    if (this.model) this.orbit.frame(this.model.box, "here");
  }

  setGrid(shown: boolean): void {
    this.gridShown = shown;
    this.grid.object.visible = shown && this.model !== null;
    this.wake();
  }

  setWireframe(shown: boolean): void {
    this.wireframe = shown;
    if (!this.model) return;
    for (const material of meshesOf(this.model.object).flatMap(materialsOf)) {
      if ("wireframe" in material) material.wireframe = shown;
    }
    this.wake();
  }

  /** The joints and bones drawn through the model; null for none. */
  setSkeleton(skeleton: Skeleton | null): void {
    const names = (joints: Skeleton) => joints.map(({ name }) => name).join("\n");
    const renamed = names(this.skeleton) !== names(skeleton ?? []);
    this.skeleton = skeleton ?? [];
    this.overlay.set(this.skeleton);
    if (renamed && this.swingingSince !== null) this.model?.pose.startSwinging(this.skeleton);
    this.placeOverlay();
    this.placeGizmo();
  }

  setSelected(id: number | null): void {
    this.selected = id;
    this.placeGizmo();
  }

  setHovered(id: number | null): void {
    this.hovered = id;
    this.wake();
  }

  /** Edit drags joints, pose turns bones. A skeleton is edited as it rests: edit lets go of the pose. */
  setMode(mode: ViewerMode): void {
    this.mode = mode;
    if (mode === "edit") {
      this.setSwinging(false);
      this.resetPose();
    }
    this.placeGizmo();
  }

  /** Heat map of the joint with this name on skinned models; null: the model's own materials. */
  setHeat(name: string | null): void {
    this.heated = name;
    this.model?.heat.show(name);
    this.wake();
  }

  /** Turns a joint's bone from its rest pose: degrees about X, then Y, then Z of its rest axes. */
  turn(id: number, degrees: Vector): void {
    this.model?.pose.turn(this.nameOf(id), degrees);
    this.wake();
  }

  /** How far a joint's bone is turned, the same way. */
  turnOf(id: number): Vector {
    return this.model?.pose.turnOf(this.nameOf(id)) ?? [0, 0, 0];
  }

  private nameOf(id: number): string {
    return this.skeleton.find((joint) => joint.id === id)?.name ?? "";
  }

  resetPose(): void {
    this.model?.pose.reset();
    this.wake();
  }

  /** The test animation. It swings around the pose made by hand, which comes back at its end. */
  setSwinging(on: boolean): void {
    if (on === (this.swingingSince !== null)) return;
    this.swingingSince = on ? performance.now() : null;
    if (on) this.model?.pose.startSwinging(this.skeleton);
    else this.model?.pose.stopSwinging();
    this.placeGizmo();
  }

  /** A PNG of the model alone on no background, seen as at first. */
  async screenshot(width: number, height: number): Promise<Blob> {
    const picture = document.createElement("canvas");
    picture.width = width;
    picture.height = height;
    if (this.model) this.drawPortrait(this.model, picture);
    return new Promise((resolve, reject) => {
      picture.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture could not be made."))), "image/png");
    });
  }

  /** Asks for one frame. All that changes what is seen calls it; nothing is drawn otherwise. */
  private readonly wake = (): void => {
    this.frameAsked ||= requestAnimationFrame(this.drawMoving);
  };

  private readonly drawMoving = (now: number): void => {
    this.frameAsked = 0;
    clearTimeout(this.restTimer);
    const elapsed = this.lastDrawn === null ? null : now - this.lastDrawn;
    if (elapsed !== null) this.movingRatio = nextRatio(this.movingRatio, elapsed, this.fineRatio);
    // A single change, as of a colour, is no motion: it is drawn in the screen's own pixels.
    const ratio = elapsed === null ? Math.min(devicePixelRatio, this.fineRatio) : this.movingRatio;
    const goesOn = this.draw(now, elapsed ?? FIRST_STEP, ratio);
    this.lastDrawn = goesOn ? now : null;
    if (goesOn) this.wake();
    else if (ratio < this.fineRatio) this.restTimer = setTimeout(this.drawFine, REST);
  };

  private readonly drawFine = (): void => void this.draw(performance.now(), 0, this.fineRatio);

  /** Draws the frame so many milliseconds after the last. Returns whether the next will differ by itself. */
  private draw(now: number, elapsed: number, ratio: number): boolean {
    if (this.renderer.getPixelRatio() !== ratio) this.setRatio(ratio);
    if (this.swingingSince !== null) this.model?.pose.swingTo(Math.max(now - this.swingingSince, 0) / 1000);
    const moved = this.orbit.update(elapsed);
    this.lighting.follow(this.orbit.camera);
    this.placeOverlay();
    this.overlay.highlight(this.selected, this.hovered);
    this.renderer.clear();
    this.renderer.render(this.scene, this.orbit.camera);
    // Bones and joints hide each other, but are hidden by nothing of the model.
    this.renderer.clearDepth();
    this.renderer.render(this.overlay.scene, this.orbit.camera);
    return moved || this.swingingSince !== null;
  }

  private setRatio(ratio: number): void {
    this.renderer.setPixelRatio(ratio);
    this.overlay.resize(this.orbit.camera, this.canvas.clientHeight, ratio);
  }

  private drawPortrait(model: ShownModel, picture: HTMLCanvasElement): void {
    const camera = this.orbit.portrait(model.box, picture.width / picture.height);
    this.grid.object.visible = false;
    this.lighting.follow(camera);
    // Twice as large, so that edges are smooth on any machine.
    this.renderer.setPixelRatio(2);
    this.renderer.setSize(picture.width, picture.height, false);
    this.renderer.clear();
    this.renderer.render(this.scene, camera);
    // What was drawn stays on the canvas only until this task ends.
    picture.getContext("2d")?.drawImage(this.canvas, 0, 0, picture.width, picture.height);
    this.grid.object.visible = this.gridShown;
    this.resize();
  }

  private resize(): void {
    const { clientWidth: width, clientHeight: height } = this.canvas.parentElement ?? this.canvas;
    if (width === 0 || height === 0) return;
    this.fineRatio = fineRatio(width, height, devicePixelRatio, this.multisampled);
    this.movingRatio = Math.min(devicePixelRatio, this.fineRatio);
    this.renderer.setSize(width, height);
    this.setRatio(this.movingRatio);
    this.orbit.resize(width, height);
    // Now, not in the next frame: a canvas of another size has lost its picture.
    cancelAnimationFrame(this.frameAsked);
    this.drawMoving(performance.now());
  }

  /** In edit mode the joints stand as they rest, otherwise where the pose has brought them. */
  private placeOverlay(): void {
    const pose = this.mode === "edit" ? null : this.model?.pose;
    this.model?.object.updateMatrixWorld();
    this.overlay.place((name) => pose?.movement(name) ?? null);
  }

  private placeGizmo(): void {
    const joint = this.skeleton.find(({ id }) => id === this.selected);
    const bone = joint && this.mode === "pose" ? this.model?.pose.bone(joint.name) : null;
    if (joint && this.mode === "edit") this.gizmo.move(new Vector3(...joint.head));
    else if (bone && this.swingingSince === null) this.gizmo.turn(bone);
    else this.gizmo.hide();
    this.wake();
  }

  private drop(): void {
    if (!this.model) return;
    this.gizmo.hide();
    this.model.heat.dispose();
    this.model.object.removeFromParent();
    disposeModel(this.model.object);
    this.model = null;
    this.wake();
  }
}
