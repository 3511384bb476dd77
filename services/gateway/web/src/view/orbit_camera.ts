/** The camera, and how pointer and keyboard lead it around the model. */

import { type Box3, PerspectiveCamera, Quaternion, Sphere, Vector3 } from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { clipPlanes, fitDistance, fitsAlike } from "./framing";

const FOV = 32;
// From the front, a little from the side and from above.
const FIRST_LOOK = new Vector3(0.45, 0.28, 1).normalize();
const MARGIN = 1.1;
// Milliseconds in which a glide loses two thirds of its speed.
const GLIDE = 110;
// Radians, about a fourth of a pixel: a smaller step is none.
const STILL = 2e-4;
const KEY_TURN = Math.PI / 18;
const KEY_ZOOM = 0.85;
const KEY_PAN = 40;

export class OrbitCamera {
  readonly camera = new PerspectiveCamera(FOV, 1, 0.1, 100);
  private readonly controls: OrbitControls;
  private readonly ball = new Sphere(new Vector3(), 1);
  private readonly seen = { position: new Vector3(), quaternion: new Quaternion() };

  /** wake: asks for a frame, where update() is called. */
  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly wake: () => void,
  ) {
    this.camera.position.copy(FIRST_LOOK);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enableDamping = true;
    // The controls call a small step no change, which would freeze a model of a centimetre.
    for (const event of ["start", "change", "end"] as const) this.controls.addEventListener(event, wake);
    canvas.addEventListener("pointermove", this.onPointerMove);
    canvas.addEventListener("wheel", wake, { passive: true });
    canvas.addEventListener("keydown", this.onKeyDown);
  }

  /** Off while a joint is dragged. */
  set enabled(on: boolean) {
    this.controls.enabled = on;
    this.halt();
  }

  resize(width: number, height: number): void {
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
  }

  /** Fits the box into the view unless the last one was about as large and in the same place. */
  reframe(box: Box3): void {
    if (!fitsAlike(this.ball, box.getBoundingSphere(new Sphere()))) this.frame(box, "here");
  }

  /** Fits the box into the view: as seen now, or as at first sight. */
  frame(box: Box3, from: "here" | "the front"): void {
    this.halt();
    box.getBoundingSphere(this.ball);
    this.controls.minDistance = this.ball.radius / 50;
    this.controls.maxDistance = this.ball.radius * 30;
    const look = from === "here" ? this.camera.position.clone().sub(this.controls.target).normalize() : FIRST_LOOK;
    this.controls.target.copy(this.ball.center);
    stand(this.camera, box, look);
    this.wake();
  }

  /** Takes one step of a glide, milliseconds after the last. Returns whether the view has moved. */
  update(milliseconds: number): boolean {
    // The controls' own damping counts frames, and would glide for ever where they are slow.
    this.controls.dampingFactor = 1 - Math.exp(-milliseconds / GLIDE);
    this.controls.update();
    const { position, quaternion } = this.seen;
    const distance = this.camera.position.distanceTo(this.controls.target);
    const moved =
      position.distanceTo(this.camera.position) > distance * STILL || quaternion.angleTo(this.camera.quaternion) > STILL;
    position.copy(this.camera.position);
    quaternion.copy(this.camera.quaternion);
    // The floor reaches some way beyond the model.
    const reach = this.ball.radius * 8;
    Object.assign(this.camera, clipPlanes(this.camera.position.distanceTo(this.ball.center), reach));
    this.camera.updateProjectionMatrix();
    this.camera.updateMatrixWorld();
    return moved;
  }

  /** Another camera with the first look at a box, for a picture of the given shape. */
  portrait(box: Box3, aspect: number): PerspectiveCamera {
    const camera = new PerspectiveCamera(FOV, aspect);
    const ball = box.getBoundingSphere(new Sphere());
    stand(camera, box, FIRST_LOOK);
    Object.assign(camera, clipPlanes(camera.position.distanceTo(ball.center), ball.radius * 2));
    camera.updateProjectionMatrix();
    return camera;
  }

  dispose(): void {
    this.controls.dispose();
    this.canvas.removeEventListener("pointermove", this.onPointerMove);
    this.canvas.removeEventListener("wheel", this.wake);
    this.canvas.removeEventListener("keydown", this.onKeyDown);
  }

  /** Ends a glide: without damping, the controls keep nothing for the next step. */
  private halt(): void {
    const { position, quaternion } = this.camera.clone();
    this.controls.enableDamping = false;
    this.controls.update();
    this.controls.enableDamping = true;
    this.camera.position.copy(position);
    this.camera.quaternion.copy(quaternion);
  }

  private readonly onPointerMove = (event: PointerEvent): void => {
    if (event.buttons !== 0) this.wake();
  };

  private readonly onKeyDown = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.controls.enabled) return;
    const step = this.step(event);
    if (!step) return;
    event.preventDefault();
    step();
    this.wake();
  };

  /** What a key does: arrows turn, with shift they pan; plus and minus zoom. */
  private step({ key, shiftKey }: KeyboardEvent): (() => void) | null {
    const { controls } = this;
    switch (key) {
      case "ArrowLeft":
        return () => (shiftKey ? controls.pan(KEY_PAN, 0) : controls.rotateLeft(KEY_TURN));
      case "ArrowRight":
        return () => (shiftKey ? controls.pan(-KEY_PAN, 0) : controls.rotateLeft(-KEY_TURN));
      case "ArrowUp":
        return () => (shiftKey ? controls.pan(0, KEY_PAN) : controls.rotateUp(KEY_TURN));
      case "ArrowDown":
        return () => (shiftKey ? controls.pan(0, -KEY_PAN) : controls.rotateUp(-KEY_TURN));
      case "+":
      case "=":
        return () => controls.dollyIn(KEY_ZOOM);
      case "-":
        return () => controls.dollyOut(KEY_ZOOM);
      default:
        return null;
    }
  }
}

/** Puts a camera where it sees the whole box, looking at its middle. */
function stand(camera: PerspectiveCamera, box: Box3, look: Vector3): void {
  const middle = box.getCenter(new Vector3());
  camera.position.copy(middle).add(look);
  camera.lookAt(middle);
  const turn = camera.quaternion.clone().invert();
  const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((corner) => {
    const [x, y, z] = [1, 2, 4].map((bit) => (corner & bit ? box.max : box.min));
    return new Vector3(x!.x, y!.y, z!.z).sub(middle).applyQuaternion(turn).toArray();
  });
  camera.position.copy(middle).addScaledVector(look, MARGIN * fitDistance(corners, camera.fov, camera.aspect));
}
