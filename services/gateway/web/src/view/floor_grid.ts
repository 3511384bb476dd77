/** The lines on the floor under the model. They fade out towards the edge. */

import { type Box3, BufferAttribute, BufferGeometry, LineSegments, ShaderMaterial, Vector3 } from "three";
import { gridSpacing } from "./framing";

// Lines on each side of the middle; every fifth is a strong one.
const LINES = 40;
const STRONG = 5;

export class FloorGrid {
  readonly object: LineSegments<BufferGeometry, ShaderMaterial>;

  constructor() {
    const material = new ShaderMaterial({
      uniforms: { colour: { value: new Vector3() } },
      vertexShader: VERTEX,
      fragmentShader: FRAGMENT,
      transparent: true,
      depthWrite: false,
    });
    this.object = new LineSegments(lines(), material);
    this.object.frustumCulled = false;
    this.object.visible = false;
    // After the model: its depth hides what lies behind, and the faded lines mix with the background.
    this.object.renderOrder = 1;
  }

  /** Puts the floor at the lowest point of the box. */
  place(box: Box3): void {
    const size = box.getSize(new Vector3());
    const spacing = gridSpacing(Math.max(size.x, size.y, size.z));
    const middle = box.getCenter(new Vector3());
    // The lines stay on round numbers, wherever the model stands.
    const round = (value: number) => Math.round(value / (spacing * STRONG)) * spacing * STRONG;
    this.object.scale.setScalar(spacing);
    this.object.position.set(round(middle.x), box.min.y, round(middle.z));
  }

  setColour(colour: readonly [number, number, number]): void {
    this.object.material.uniforms.colour!.value.set(...colour);
  }

  dispose(): void {
    this.object.geometry.dispose();
    this.object.material.dispose();
  }
}

function lines(): BufferGeometry {
  const places: number[] = [];
  const strengths: number[] = [];
  for (let i = -LINES; i <= LINES; i++) {
    const strength = i % STRONG === 0 ? 1 : 0.4;
    // In pieces: some drivers leave a line out whole when one end lies behind the camera.
    for (let j = -LINES; j < LINES; j += STRONG) {
      places.push(i, 0, j, i, 0, j + STRONG, j, 0, i, j + STRONG, 0, i);
      strengths.push(strength, strength, strength, strength);
    }
  }
  const geometry = new BufferGeometry();
  geometry.setAttribute("position", new BufferAttribute(new Float32Array(places), 3));
  geometry.setAttribute("strength", new BufferAttribute(new Float32Array(strengths), 1));
  return geometry;
}

const VERTEX = /* glsl */ `
  attribute float strength;
  varying float vStrength;
  varying vec2 vPlace;
  void main() {
    vStrength = strength;
    vPlace = position.xz;
    gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
  }
`;

const FRAGMENT = /* glsl */ `
  uniform vec3 colour;
  varying float vStrength;
  varying vec2 vPlace;
  void main() {
    float fade = 1.0 - smoothstep(8.0, ${LINES.toFixed(1)}, length(vPlace));
    gl_FragColor = vec4(colour, 0.5 * vStrength * fade);
  }
`;
