/** The heat map: how much one joint moves each vertex, as colours on the model. */

import {
  BufferAttribute,
  Color,
  DataTexture,
  DoubleSide,
  type Material,
  MeshLambertMaterial,
  type Object3D,
  type SkinnedMesh,
  SRGBColorSpace,
  type BufferGeometry,
} from "three";
import { heatColour } from "../heat_colours";
import { boneName, materialsOf, skinnedMeshesOf } from "./load_model";

// A texture may read any set of coordinates. Models hardly ever bring a fourth one, so the weights
// go there: one number a vertex, coloured pixel by pixel through the ramp.
const CHANNEL = 3;
const ATTRIBUTE = "uv3";
const RAMP_SIZE = 256;

export class WeightHeat {
  private readonly own = new Map<SkinnedMesh, Material | Material[]>();
  private readonly ramp = rampTexture();
  private readonly materials: Material[] = [];

  constructor(private readonly model: Object3D) {}

  /** Shows the weights of the joint with this name; null gives the model its own materials back. */
  show(name: string | null): void {
    for (const mesh of skinnedMeshesOf(this.model)) {
      if (name === null) this.restore(mesh);
      else this.heat(mesh, name);
    }
  }

  dispose(): void {
    this.show(null);
    for (const material of this.materials) material.dispose();
    this.ramp.dispose();
  }

  private heat(mesh: SkinnedMesh, name: string): void {
    const joint = mesh.skeleton.bones.findIndex((bone) => boneName(bone) === name);
    const weights = jointWeights(mesh.geometry, joint);
    let attribute = mesh.geometry.getAttribute(ATTRIBUTE) as BufferAttribute | undefined;
    if (!this.own.has(mesh) || !attribute) {
      attribute = new BufferAttribute(new Float32Array(2 * weights.length), 2);
      mesh.geometry.setAttribute(ATTRIBUTE, attribute);
    }
    weights.forEach((weight, vertex) => attribute.setXY(vertex, rampPlace(weight), 0.5));
    attribute.needsUpdate = true;
    if (this.own.has(mesh)) return;
    this.own.set(mesh, mesh.material);
    mesh.material = this.material(mesh);
  }

  private restore(mesh: SkinnedMesh): void {
    const material = this.own.get(mesh);
    if (!material) return;
    mesh.material = material;
    mesh.geometry.deleteAttribute(ATTRIBUTE);
    this.own.delete(mesh);
  }

  private material(mesh: SkinnedMesh): Material {
    // Half of the colour glows by itself and half takes the light: the hue stays, the form shows.
    const material = new MeshLambertMaterial({
      color: new Color().setScalar(0.6),
      map: this.ramp,
      emissive: new Color().setScalar(0.35),
      emissiveMap: this.ramp,
      flatShading: !mesh.geometry.hasAttribute("normal"),
      side: DoubleSide,
      wireframe: materialsOf(mesh).some((own) => "wireframe" in own && own.wireframe === true),
      toneMapped: false,
    });
    this.materials.push(material);
    return material;
  }
}

/** The weight of one joint at each vertex. A joint which the mesh does not have moves nothing. */
export function jointWeights(geometry: BufferGeometry, joint: number): Float32Array {
  const weights = new Float32Array(geometry.getAttribute("position").count);
  // three.js names the first set of influences; the loader leaves further sets their own names.
  for (const [indexName, weightName] of [["skinIndex", "skinWeight"], ["joints_1", "weights_1"]] as const) {
    const indices = geometry.getAttribute(indexName);
    const values = geometry.getAttribute(weightName);
    if (!indices || !values) continue;
    for (let vertex = 0; vertex < weights.length; vertex++) {
      for (let c = 0; c < 4; c++) {
        if (indices.getComponent(vertex, c) === joint) weights[vertex]! += values.getComponent(vertex, c);
      }
    }
  }
  return weights;
}

/** From the middle of the ramp's first texel to that of its last, where no filter bleeds. */
function rampPlace(weight: number): number {
  return (0.5 + Math.min(weight, 1) * (RAMP_SIZE - 1)) / RAMP_SIZE;
}

function rampTexture(): DataTexture {
  const texels = new Uint8Array(4 * RAMP_SIZE);
  for (let i = 0; i < RAMP_SIZE; i++) {
    texels.set([...heatColour(i / (RAMP_SIZE - 1)).map((part) => Math.round(255 * part)), 255], 4 * i);
  }
  const texture = new DataTexture(texels, RAMP_SIZE, 1);
  texture.colorSpace = SRGBColorSpace;
  texture.channel = CHANNEL;
  texture.needsUpdate = true;
  return texture;
}
