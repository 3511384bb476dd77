/** The handles on the selected joint: arrows that move it, or rings that turn its bone. */

import { type Bone, type Camera, Object3D, type Scene, type Vector3 } from "three";
import { TransformControls } from "three/addons/controls/TransformControls.js";

export interface GizmoEvents {
  /** Something is to be drawn anew. */
  change(): void;
  dragging(on: boolean): void;
  moved(to: Vector3, done: boolean): void;
  turned(): void;
}

export class JointGizmo {
  private readonly controls: TransformControls;
  /** Stands at the joint and is moved in its place: a joint is no object of the scene. */
  private readonly place = new Object3D();

  constructor(camera: Camera, canvas: HTMLCanvasElement, scene: Scene, events: GizmoEvents) {
    this.controls = new TransformControls(camera, canvas);
    this.controls.size = 0.9;
    // A ball to turn freely would lie over the joint and take its clicks.
    this.controls.showXYZE = false;
    this.controls.setColors(0xe5484d, 0x46a758, 0x3e7bfa, 0xffb224);
    scene.add(this.place, this.controls.getHelper());
    this.controls.addEventListener("change", () => events.change());
    this.controls.addEventListener("dragging-changed", ({ value }) => events.dragging(value === true));
    this.controls.addEventListener("objectChange", () => {
      if (this.controls.object === this.place) events.moved(this.place.position, false);
      else events.turned();
    });
    this.controls.addEventListener("mouseUp", () => {
      if (this.controls.object === this.place) events.moved(this.place.position, true);
    });
  }

  /** Whether a handle is held or lies under the pointer, which then means no joint. */
  get held(): boolean {
    return this.controls.object !== undefined && this.controls.axis !== null;
  }

  /** Leaves the pointer to another joint that lies under a handle. */
  yieldPointer(on: boolean): void {
    if (this.controls.dragging) return;
    this.controls.enabled = !on;
    if (on) this.controls.axis = null;
  }

  move(at: Vector3): void {
    if (this.controls.dragging && this.controls.object === this.place) return;
    this.place.position.copy(at);
    this.place.updateMatrixWorld();
    this.controls.setMode("translate");
    this.controls.setSpace("world");
    this.controls.attach(this.place);
  }

  turn(bone: Bone): void {
    if (this.controls.object === bone) return;
    this.controls.setMode("rotate");
    this.controls.setSpace("local");
    this.controls.attach(bone);
  }

  hide(): void {
    this.controls.detach();
  }

  dispose(): void {
    this.controls.dispose();
  }
}
