/** How the bones of the shown model stand: turned by hand, or swinging. */

import { type Bone, Euler, MathUtils, type Matrix4, type Object3D, Quaternion, Vector3 } from "three";
import type { Skeleton, Vector } from "../skeleton";
import { angleAt, type Swing, swing } from "../swing";
import { boneName, skinnedMeshesOf } from "./load_model";

interface PosedBone {
  readonly bone: Bone;
  /** From world space at rest to the bone's own space. A skin's inverse bind matrices would not do:
   * each mesh may have its own, from its own space. */
  readonly restInverse: Matrix4;
  /** The bone's turn in the file, and the parent's in world space. */
  readonly rest: Quaternion;
  readonly parentRest: Quaternion;
}

interface SwingingBone {
  readonly bone: Bone;
  readonly swing: Swing;
  /** The axis of the swing in the parent's space. */
  readonly axis: Vector3;
  /** The turn by hand, which the swing goes around and comes back to. */
  readonly posed: Quaternion;
}

export class Pose {
  private readonly bones = new Map<string, PosedBone>();
  private swinging: SwingingBone[] = [];

  constructor(model: Object3D) {
    for (const { skeleton } of skinnedMeshesOf(model)) {
      skeleton.bones.forEach((bone) => {
        const parentRest = new Quaternion();
        bone.parent?.getWorldQuaternion(parentRest);
        const restInverse = bone.matrixWorld.clone().invert();
        this.bones.set(boneName(bone), { bone, restInverse, rest: bone.quaternion.clone(), parentRest });
      });
    }
  }

  bone(name: string): Bone | null {
    return this.bones.get(name)?.bone ?? null;
  }

  /** Where the rest pose has gone with this bone: a matrix in world space, or null without a bone. */
  movement(name: string): Matrix4 | null {
    const posed = this.bones.get(name);
    return posed ? posed.bone.matrixWorld.clone().multiply(posed.restInverse) : null;
  }

  /** Turns a bone from its rest pose: degrees about X, then Y, then Z of its own rest axes. */
  turn(name: string, degrees: Vector): void {
    const posed = this.bones.get(name);
    if (!posed) return;
    const [x, y, z] = degrees.map(MathUtils.degToRad) as [number, number, number];
    posed.bone.quaternion.setFromEuler(new Euler(x, y, z)).premultiply(posed.rest);
  }

  /** How far a bone is turned, the same way. */
  turnOf(name: string): Vector {
    const posed = this.bones.get(name);
    if (!posed) return [0, 0, 0];
    const turn = posed.rest.clone().invert().multiply(posed.bone.quaternion);
    const { x, y, z } = new Euler().setFromQuaternion(turn);
    return [MathUtils.radToDeg(x), MathUtils.radToDeg(y), MathUtils.radToDeg(z)];
  }

  reset(): void {
    for (const { bone, rest } of this.bones.values()) bone.quaternion.copy(rest);
    for (const swinging of this.swinging) swinging.posed.copy(swinging.bone.quaternion);
  }

  startSwinging(skeleton: Skeleton): void {
    this.stopSwinging();
    const names = new Map(skeleton.map((joint) => [joint.id, joint.name]));
    for (const turn of swing(skeleton)) {
      const posed = this.bones.get(names.get(turn.id) ?? "");
      if (!posed) continue;
      const axis = new Vector3(...turn.axis).applyQuaternion(posed.parentRest.clone().invert());
      this.swinging.push({ bone: posed.bone, swing: turn, axis, posed: posed.bone.quaternion.clone() });
    }
  }

  swingTo(seconds: number): void {
    const turn = new Quaternion();
    for (const { bone, swing, axis, posed } of this.swinging) {
      turn.setFromAxisAngle(axis, angleAt(swing, seconds));
      bone.quaternion.multiplyQuaternions(turn, posed);
    }
  }

  /** Ends the swing; the pose made by hand is there again. */
  stopSwinging(): void {
    for (const { bone, posed } of this.swinging) bone.quaternion.copy(posed);
    this.swinging = [];
  }
}
