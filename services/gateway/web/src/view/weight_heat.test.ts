import { BufferAttribute, BufferGeometry } from "three";
import { expect, test } from "vitest";
import { jointWeights } from "./weight_heat";

function geometry(): BufferGeometry {
  const result = new BufferGeometry();
  result.setAttribute("position", new BufferAttribute(new Float32Array(6), 3));
  result.setAttribute("skinIndex", new BufferAttribute(new Uint16Array([3, 5, 0, 0, 5, 3, 0, 0]), 4));
  result.setAttribute("skinWeight", new BufferAttribute(new Uint8Array([255, 0, 0, 0, 51, 204, 0, 0]), 4, true));
  return result;
}

test("each vertex has the weight of its own influence of the joint", () => {
  const [first, second] = jointWeights(geometry(), 5);
  expect(first).toBe(0);
  expect(second).toBeCloseTo(0.2);
});

test("a joint of the second set of influences counts too", () => {
  const both = geometry();
  both.setAttribute("joints_1", new BufferAttribute(new Uint16Array([5, 0, 0, 0, 5, 0, 0, 0]), 4));
  both.setAttribute("weights_1", new BufferAttribute(new Float32Array([0.25, 0, 0, 0, 0.5, 0, 0, 0]), 4));
  const [first, second] = jointWeights(both, 5);
  expect(first).toBeCloseTo(0.25);
  expect(second).toBeCloseTo(0.7);
});

test("a joint which the mesh does not have moves nothing", () => {
  expect([...jointWeights(geometry(), -1)]).toEqual([0, 0]);
});
