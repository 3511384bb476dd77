/** Light that shows the form from every side: a soft sky, and a key light that goes with the camera. */

import {
  type Camera,
  DirectionalLight,
  Group,
  HemisphereLight,
  MeshStandardMaterial,
  type Object3D,
  PMREMGenerator,
  Scene,
  SphereGeometry,
  BackSide,
  Mesh,
  MeshBasicMaterial,
  BufferAttribute,
  Color,
  type Texture,
  type WebGLRenderer,
} from "three";
import { materialsOf, meshesOf } from "./load_model";

export class Lighting {
  readonly object = new Group();
  private readonly camera = new Group();
  private sky: Texture | null = null;

  constructor() {
    const key = new DirectionalLight(0xfff8ef, 2.1);
    key.position.set(-0.6, 0.9, 1);
    this.camera.add(key, key.target);
    this.object.add(new HemisphereLight(0xffffff, 0x8d8a86, 1.9), this.camera);
  }

  follow(camera: Camera): void {
    this.camera.quaternion.copy(camera.quaternion);
  }

  /** What the model mirrors. Only metal needs it, and it costs time at each pixel. */
  reflections(renderer: WebGLRenderer, model: Object3D): Texture | null {
    if (!isMetallic(model)) return null;
    this.sky ??= skyTexture(renderer);
    return this.sky;
  }

  dispose(): void {
    this.sky?.dispose();
  }
}

function isMetallic(model: Object3D): boolean {
  return meshesOf(model)
    .flatMap(materialsOf)
    .some((material) => material instanceof MeshStandardMaterial && material.metalness > 0.3);
}

function skyTexture(renderer: WebGLRenderer): Texture {
  const geometry = new SphereGeometry(1, 16, 12);
  const positions = geometry.getAttribute("position");
  const colours = new Float32Array(positions.count * 3);
  const [ground, sky] = [new Color(0x777470), new Color(0xffffff)];
  for (let i = 0; i < positions.count; i++) {
    new Color().lerpColors(ground, sky, (positions.getY(i) + 1) / 2).toArray(colours, 3 * i);
  }
  geometry.setAttribute("color", new BufferAttribute(colours, 3));
  const room = new Scene();
  const material = new MeshBasicMaterial({ side: BackSide, vertexColors: true });
  room.add(new Mesh(geometry, material));
  const generator = new PMREMGenerator(renderer);
  const { texture } = generator.fromScene(room, 0.04, 0.1, 10, { size: 64 });
  generator.dispose();
  geometry.dispose();
  material.dispose();
  return texture;
}
