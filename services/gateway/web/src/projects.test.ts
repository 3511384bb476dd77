import { describe, expect, test } from "vitest";

import type { Job, JobStatus, JobType } from "./api";
import { nameOf, projectsOf } from "./projects";

const S = "/uploads/s/";
const R = "/results/s/";

function job(type: JobType, input: string, output: string | null, status: JobStatus = "completed"): Job {
  return {
    job_id: `${type} of ${input}`,
    type,
    status,
    progress: 100,
    created_at: "2025-11-13T10:30:00Z",
    completed_at: "2025-11-13T10:30:10Z",
    input_file: input,
    output_file: output,
    error: null,
    error_code: null,
  };
}

describe("projectsOf", () => {
  test("the three jobs of a model are one project", () => {
    const skeleton = job("skeleton", `${S}a.glb`, `${R}a_skeleton.glb`);
    const skinning = job("skinning", `${R}a_skeleton.glb`, `${R}a_skinned.glb`);
    const merge = job("merge", `${R}a_skeleton.glb`, `${R}a_rigged.fbx`);
    const projects = projectsOf([merge, skinning, skeleton], {});
    expect(projects).toEqual([
      { upload: `${S}a.glb`, jobs: [merge, skinning, skeleton], skeleton, skinning, merge },
    ]);
  });

  test("an edited skeleton belongs to its model where that is remembered", () => {
    const skeleton = job("skeleton", `${S}a.glb`, `${R}a_skeleton.glb`);
    const skinning = job("skinning", `${S}a_edited.glb`, `${R}a_skinned.glb`);
    const remembered = { [`${S}a_edited.glb`]: `${S}a.glb` };
    expect(projectsOf([skinning, skeleton], remembered)[0]?.skinning).toBe(skinning);
    expect(projectsOf([skinning, skeleton], {})).toHaveLength(2);
  });

  test("weights of an earlier skeleton do not count for a newer one", () => {
    const first = job("skeleton", `${S}a.glb`, `${R}a_skeleton.glb`);
    const skinning = job("skinning", `${R}a_skeleton.glb`, `${R}a_skinned.glb`);
    const second = job("skeleton", `${S}a.glb`, `${R}a_skeleton-2.glb`);
    const [project] = projectsOf([second, skinning, first], {});
    expect(project?.skeleton).toBe(second);
    expect(project?.skinning).toBeNull();
  });

  test("weights for the model's own skeleton need none of ours", () => {
    const ours = job("skeleton", `${S}a.glb`, `${R}a_skeleton.glb`);
    const own = job("skinning", `${S}a.glb`, `${R}a_skinned.glb`);
    const [project] = projectsOf([own, ours], {});
    expect(project?.skeleton).toBeNull();
    expect(project?.skinning).toBe(own);
    expect(projectsOf([ours, own], {})[0]?.skeleton).toBe(ours);
  });

  test("failed and running jobs make nothing", () => {
    const failed = job("skeleton", `${S}a.glb`, null, "failed");
    const running = job("skeleton", `${S}a.glb`, null, "running");
    const [project] = projectsOf([running, failed], {});
    expect(project?.skeleton).toBeNull();
    expect(project?.jobs).toEqual([running, failed]);
  });

  test("the model that was worked on last comes first", () => {
    const a = job("skeleton", `${S}a.glb`, `${R}a_skeleton.glb`);
    const b = job("skeleton", `${S}b.glb`, `${R}b_skeleton.glb`);
    const again = job("skinning", `${R}a_skeleton.glb`, `${R}a_skinned.glb`);
    const uploads = projectsOf([again, b, a], {}).map((project) => nameOf(project.upload));
    expect(uploads).toEqual(["a.glb", "b.glb"]);
  });
});
