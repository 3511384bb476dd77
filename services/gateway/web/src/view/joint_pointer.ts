/** Pointer on joints: hover, click, and dragging in the plane of the screen. Mouse, pen and touch. */

import { type PerspectiveCamera, Plane, Raycaster, Vector2, Vector3 } from "three";
import { pickBone, pickJoint } from "./picking";
import type { SkeletonOverlay } from "./skeleton_overlay";

export interface JointPointerEvents {
  /** The pointer lies right on a joint, or on none: told before anything else hears of the pointer. */
  near(id: number | null): void;
  /** Whether something else, as a handle of the gizmo, has the pointer. */
  taken(): boolean;
  mayDrag(): boolean;
  hover(id: number | null): void;
  select(id: number | null): void;
  /** A joint is held: the camera must stay. */
  dragging(on: boolean): void;
  moved(id: number, to: Vector3, done: boolean): void;
}

// CSS pixels. A finger is less exact than a mouse, and any hand shakes a little in a click.
const ON_JOINT = { mouse: 7, touch: 13 };
const JOINT_RADIUS = { mouse: 12, touch: 22 };
const BONE_RADIUS = { mouse: 6, touch: 14 };
const STILL = { mouse: 4, touch: 9 };

interface Press {
  readonly pointer: number;
  readonly x: number;
  readonly y: number;
  readonly joint: number | null;
  /** Where the joint is dragged: through its head, across the line of sight. */
  readonly plane: Plane;
  readonly offset: Vector3;
  moved: boolean;
}

export class JointPointer {
  private press: Press | null = null;
  private hovered: number | null = null;
  private readonly raycaster = new Raycaster();

  /** To be made after all others that listen to the canvas: but for near(), they come first. */
  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly camera: PerspectiveCamera,
    private readonly overlay: SkeletonOverlay,
    private readonly events: JointPointerEvents,
  ) {
    canvas.addEventListener("pointerdown", this.onNear, { capture: true });
    canvas.addEventListener("pointermove", this.onNear, { capture: true });
    canvas.addEventListener("pointerdown", this.onDown);
    canvas.addEventListener("pointermove", this.onMove);
    canvas.addEventListener("pointerup", this.onUp);
    canvas.addEventListener("pointercancel", this.onUp);
    canvas.addEventListener("pointerleave", this.onLeave);
  }

  dispose(): void {
    this.canvas.removeEventListener("pointerdown", this.onNear, { capture: true });
    this.canvas.removeEventListener("pointermove", this.onNear, { capture: true });
    this.canvas.removeEventListener("pointerdown", this.onDown);
    this.canvas.removeEventListener("pointermove", this.onMove);
    this.canvas.removeEventListener("pointerup", this.onUp);
    this.canvas.removeEventListener("pointercancel", this.onUp);
    this.canvas.removeEventListener("pointerleave", this.onLeave);
  }

  private readonly onNear = (event: PointerEvent): void => {
    if (this.press || (event.type === "pointermove" && event.buttons !== 0)) return;
    const [x, y] = this.place(event);
    this.events.near(pickJoint(this.bones(), x, y, ON_JOINT[kind(event)]));
  };

  private readonly onDown = (event: PointerEvent): void => {
    if (this.press) {
      // A second finger: no click any more, but a joint in the hand stays there.
      this.press.moved = true;
      return;
    }
    if (event.button !== 0 || this.events.taken()) return;
    const [x, y] = this.place(event);
    const joint = this.events.mayDrag() ? pickJoint(this.bones(), x, y, JOINT_RADIUS[kind(event)]) : null;
    const plane = new Plane();
    const offset = new Vector3();
    const head = joint === null ? null : this.overlay.head(joint);
    if (head) {
      plane.setFromNormalAndCoplanarPoint(this.camera.getWorldDirection(new Vector3()), head);
      offset.copy(head).sub(this.onPlane(event, plane) ?? head);
      this.events.dragging(true);
      this.events.select(joint);
    }
    this.press = { pointer: event.pointerId, x, y, joint, plane, offset, moved: false };
  };

  private readonly onMove = (event: PointerEvent): void => {
    if (!this.press) {
      if (event.buttons === 0) this.hover(this.events.taken() ? null : this.pick(event));
      return;
    }
    const { press } = this;
    if (event.pointerId !== press.pointer) return;
    const [x, y] = this.place(event);
    if (Math.hypot(x - press.x, y - press.y) > STILL[kind(event)]) press.moved = true;
    if (press.moved) this.drag(event, press, false);
  };

  private readonly onUp = (event: PointerEvent): void => {
    const { press } = this;
    if (!press || event.pointerId !== press.pointer) return;
    this.press = null;
    if (press.joint !== null) this.events.dragging(false);
    if (press.moved) this.drag(event, press, true);
    else if (press.joint === null && event.type === "pointerup") this.events.select(this.pick(event));
  };

  private readonly onLeave = (): void => {
    if (!this.press) this.hover(null);
  };

  private drag(event: PointerEvent, press: Press, done: boolean): void {
    if (press.joint === null) return;
    const point = this.onPlane(event, press.plane);
    if (point) this.events.moved(press.joint, point.add(press.offset), done);
  }

  private hover(id: number | null): void {
    if (id === this.hovered) return;
    this.hovered = id;
    this.canvas.style.cursor = id === null ? "" : this.events.mayDrag() ? "grab" : "pointer";
    this.events.hover(id);
  }

  private pick(event: PointerEvent): number | null {
    const [x, y] = this.place(event);
    const bones = this.bones();
    return pickJoint(bones, x, y, JOINT_RADIUS[kind(event)]) ?? pickBone(bones, x, y, BONE_RADIUS[kind(event)]);
  }

  private bones() {
    return this.overlay.onScreen(this.camera, this.canvas.clientWidth, this.canvas.clientHeight);
  }

  /** In CSS pixels from the canvas's corner. */
  private place(event: PointerEvent): [x: number, y: number] {
    const { left, top } = this.canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  private onPlane(event: PointerEvent, plane: Plane): Vector3 | null {
    const [x, y] = this.place(event);
    const { clientWidth, clientHeight } = this.canvas;
    this.raycaster.setFromCamera(new Vector2((x / clientWidth) * 2 - 1, 1 - (y / clientHeight) * 2), this.camera);
    return this.raycaster.ray.intersectPlane(plane, new Vector3());
  }
}

function kind(event: PointerEvent): "mouse" | "touch" {
  return event.pointerType === "touch" ? "touch" : "mouse";
}
