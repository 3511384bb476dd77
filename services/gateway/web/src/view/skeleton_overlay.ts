/** Joints and bones, drawn over the model in a scene of their own. */

import {
  BufferAttribute,
  BufferGeometry,
  DynamicDrawUsage,
  InstancedBufferAttribute,
  InstancedMesh,
  LineSegments,
  Matrix4,
  Points,
  Scene,
  ShaderMaterial,
  Vector3,
  type PerspectiveCamera,
} from "three";
import type { Skeleton } from "../skeleton";
import type { ScreenBone } from "./picking";

type Rgb = readonly [number, number, number];

const BONE: Rgb = [0.8, 0.85, 0.93];
const HOVERED: Rgb = [1, 0.86, 0.66];
const SELECTED: Rgb = [1, 0.56, 0.13];

// The waist of a bone: its place along the bone and its half width, as shares of the length.
const WAIST = 0.14;
const HALF_WIDTH = 0.085;

export class SkeletonOverlay {
  readonly scene = new Scene();
  private skeleton: Skeleton = [];
  private heads: Vector3[] = [];
  private tails: Vector3[] = [];
  private bones: InstancedMesh<BufferGeometry, ShaderMaterial> | null = null;
  private joints: Points<BufferGeometry, ShaderMaterial> | null = null;
  private links: LineSegments<BufferGeometry, ShaderMaterial> | null = null;
  private readonly boneMaterial = new ShaderMaterial({
    vertexShader: BONE_VERTEX,
    fragmentShader: BONE_FRAGMENT,
    transparent: true,
  });
  private readonly jointMaterial = new ShaderMaterial({
    uniforms: { pixels: { value: 1 }, ratio: { value: 1 } },
    vertexShader: JOINT_VERTEX,
    fragmentShader: JOINT_FRAGMENT,
    transparent: true,
    depthTest: false,
  });
  private readonly linkMaterial = new ShaderMaterial({
    vertexShader: LINK_VERTEX,
    fragmentShader: LINK_FRAGMENT,
    transparent: true,
  });

  /** Takes the skeleton up; place() says where it stands. */
  set(skeleton: Skeleton): void {
    const sameSize = this.skeleton.length === skeleton.length;
    this.skeleton = skeleton;
    if (sameSize) return;
    this.drop();
    if (skeleton.length > 0) this.build(skeleton.length);
  }

  /** Moves each joint to where its pose has gone; a joint without a movement goes with its parent. */
  place(movement: (name: string) => Matrix4 | null): void {
    const movements = new Map<number, Matrix4>();
    this.heads = [];
    this.tails = [];
    for (const joint of this.skeleton) {
      const matrix = movement(joint.name) ?? movements.get(joint.parent ?? -1) ?? new Matrix4();
      movements.set(joint.id, matrix);
      this.heads.push(new Vector3(...joint.head).applyMatrix4(matrix));
      this.tails.push(new Vector3(...joint.tail).applyMatrix4(matrix));
    }
    this.write();
  }

  highlight(selected: number | null, hovered: number | null): void {
    const colours = this.bones?.geometry.getAttribute("colour");
    const jointColours = this.joints?.geometry.getAttribute("colour");
    const sizes = this.joints?.geometry.getAttribute("size");
    if (!colours || !jointColours || !sizes) return;
    this.skeleton.forEach(({ id }, i) => {
      const colour = id === selected ? SELECTED : id === hovered ? HOVERED : BONE;
      colours.setXYZ(i, ...colour);
      sizes.setX(i, id === selected ? 1.5 : id === hovered ? 1.3 : 1);
    });
    for (const attribute of [colours, jointColours, sizes]) attribute.needsUpdate = true;
  }

  head(id: number): Vector3 | null {
    return this.heads[this.skeleton.findIndex((joint) => joint.id === id)] ?? null;
  }

  /** Tells the joints' size on the screen: the height of the view in CSS pixels, and the pixel ratio. */
  resize(camera: PerspectiveCamera, height: number, ratio: number): void {
    const { pixels, ratio: shown } = this.jointMaterial.uniforms;
    pixels!.value = height / (2 * Math.tan((camera.fov * Math.PI) / 360));
    shown!.value = ratio;
  }

  /** The bones as the camera sees them, in CSS pixels; without those behind it. */
  onScreen(camera: PerspectiveCamera, width: number, height: number): ScreenBone[] {
    const seen: ScreenBone[] = [];
    const head = new Vector3();
    const tail = new Vector3();
    this.skeleton.forEach(({ id }, i) => {
      head.copy(this.heads[i]!).project(camera);
      tail.copy(this.tails[i]!).project(camera);
      if (Math.abs(head.z) > 1 || Math.abs(tail.z) > 1) return;
      const pixels = ({ x, y }: Vector3) => [((x + 1) / 2) * width, ((1 - y) / 2) * height] as const;
      seen.push({ id, head: pixels(head), tail: pixels(tail), depth: this.heads[i]!.distanceTo(camera.position) });
    });
    return seen;
  }

  dispose(): void {
    this.drop();
    for (const material of [this.boneMaterial, this.jointMaterial, this.linkMaterial]) material.dispose();
  }

  private build(count: number): void {
    const octahedron = octahedronGeometry();
    const colours = new InstancedBufferAttribute(new Float32Array(3 * count), 3);
    octahedron.setAttribute("colour", colours);
    this.bones = new InstancedMesh(octahedron, this.boneMaterial, count);

    const points = new BufferGeometry();
    points.setAttribute("position", changing(count, 3));
    points.setAttribute("size", changing(count, 1));
    points.setAttribute("reach", changing(count, 1));
    // The same numbers as the bones', which take them by the instance and not by the vertex.
    points.setAttribute("colour", new BufferAttribute(colours.array, 3));
    this.joints = new Points(points, this.jointMaterial);
    this.joints.renderOrder = 1;

    const ends = new BufferGeometry();
    ends.setAttribute("position", changing(2 * count, 3));
    this.links = new LineSegments(ends, this.linkMaterial);

    for (const object of [this.bones, this.joints, this.links]) {
      object.frustumCulled = false;
      this.scene.add(object);
    }
  }

  private drop(): void {
    for (const object of [this.bones, this.joints, this.links]) {
      object?.removeFromParent();
      object?.geometry.dispose();
    }
    this.bones?.dispose();
    this.bones = this.joints = this.links = null;
  }

  private write(): void {
    if (!this.bones || !this.joints || !this.links) return;
    const points = this.joints.geometry.getAttribute("position");
    const reach = this.joints.geometry.getAttribute("reach");
    const ends = this.links.geometry.getAttribute("position");
    const places = new Map(this.skeleton.map((joint, i) => [joint.id, i]));
    const matrix = new Matrix4();
    this.skeleton.forEach((joint, i) => {
      const [head, tail] = [this.heads[i]!, this.tails[i]!];
      const from = this.tails[places.get(joint.parent ?? -1) ?? -1] ?? head;
      this.bones!.setMatrixAt(i, boneMatrix(head, tail, matrix));
      points.setXYZ(i, head.x, head.y, head.z);
      reach.setX(i, head.distanceTo(tail));
      ends.setXYZ(2 * i, from.x, from.y, from.z);
      ends.setXYZ(2 * i + 1, head.x, head.y, head.z);
    });
    for (const attribute of [this.bones.instanceMatrix, points, reach, ends]) attribute.needsUpdate = true;
  }
}

/** From the upright bone of length 1 at the origin to the bone between two points. */
export function boneMatrix(head: Vector3, tail: Vector3, matrix: Matrix4): Matrix4 {
  const along = tail.clone().sub(head);
  const length = along.length();
  const up = Math.abs(along.y) < 0.9 * length ? new Vector3(0, 1, 0) : new Vector3(0, 0, 1);
  const aside = new Vector3().crossVectors(along, up).setLength(length * HALF_WIDTH);
  const across = new Vector3().crossVectors(aside, along).setLength(length * HALF_WIDTH);
  return matrix.makeBasis(aside, along, across).setPosition(head);
}

function changing(count: number, size: number): BufferAttribute {
  return new BufferAttribute(new Float32Array(count * size), size).setUsage(DynamicDrawUsage);
}

/** Each face has corners of its own, numbered for the outline along its edges. */
function octahedronGeometry(): BufferGeometry {
  const waist = [[1, 0], [0, -1], [-1, 0], [0, 1]] as const;
  const places: number[] = [];
  waist.forEach(([x, z], i) => {
    const [nextX, nextZ] = waist[(i + 1) % 4]!;
    const [here, next] = [[x, WAIST, z], [nextX, WAIST, nextZ]] as const;
    places.push(0, 1, 0, ...here, ...next, 0, 0, 0, ...next, ...here);
  });
  const corners = places.map((_, i) => (Math.floor(i / 3) % 3 === i % 3 ? 1 : 0));
  const geometry = new BufferGeometry();
  geometry.setAttribute("position", new BufferAttribute(new Float32Array(places), 3));
  geometry.setAttribute("corner", new BufferAttribute(new Float32Array(corners), 3));
  geometry.computeVertexNormals();
  return geometry;
}

const BONE_VERTEX = /* glsl */ `
  attribute vec3 colour;
  attribute vec3 corner;
  varying vec3 vColour;
  varying vec3 vCorner;
  varying float vLight;
  void main() {
    mat4 placed = modelViewMatrix * instanceMatrix;
    // The bone is long and thin: its normals take the inverse scale of each axis.
    vec3 scale = vec3(dot(placed[0], placed[0]), dot(placed[1], placed[1]), dot(placed[2], placed[2]));
    vec3 facing = normalize(mat3(placed) * (normal / max(scale, vec3(1e-20))));
    vLight = 0.72 + 0.28 * dot(facing, normalize(vec3(-0.4, 0.6, 0.7)));
    vColour = colour;
    vCorner = corner;
    gl_Position = projectionMatrix * placed * vec4(position, 1.0);
  }
`;

const BONE_FRAGMENT = /* glsl */ `
  varying vec3 vColour;
  varying vec3 vCorner;
  varying float vLight;
  void main() {
    vec3 edge = smoothstep(vec3(0.0), 1.3 * fwidth(vCorner), vCorner);
    float inside = min(edge.x, min(edge.y, edge.z));
    gl_FragColor = mix(vec4(0.3 * vColour, 0.9), vec4(vColour * vLight, 0.78), inside);
  }
`;

// A joint is a disc of the same size near and far; it shrinks only where its bone is too short for it.
const JOINT_VERTEX = /* glsl */ `
  uniform float pixels;
  uniform float ratio;
  attribute float size;
  attribute float reach;
  attribute vec3 colour;
  varying vec3 vColour;
  varying float vSize;
  void main() {
    gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
    float bone = reach * pixels / gl_Position.w;
    gl_PointSize = ratio * size * clamp(0.34 * bone, 4.5, 9.5);
    vColour = colour;
    vSize = gl_PointSize;
  }
`;

const JOINT_FRAGMENT = /* glsl */ `
  varying vec3 vColour;
  varying float vSize;
  void main() {
    float fromMiddle = length(gl_PointCoord - 0.5) * vSize;
    float outer = 0.5 * vSize;
    float rim = smoothstep(outer - 2.0, outer - 1.0, fromMiddle);
    float cover = 1.0 - smoothstep(outer - 1.0, outer, fromMiddle);
    gl_FragColor = vec4(mix(min(vColour * 1.08, 1.0), vColour * 0.22, rim), cover);
  }
`;

const LINK_VERTEX = /* glsl */ `
  void main() {
    gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
  }
`;

const LINK_FRAGMENT = /* glsl */ `
  void main() {
    gl_FragColor = vec4(0.2, 0.23, 0.3, 0.55);
  }
`;
