import type { Job } from "../api";
import { nameOf } from "../projects";
import { duration, megabytes } from "../sizes";

/** Who made a result, how long it took, and what the service has to say about it. */
export function Notes({ job }: { job: Job | null }) {
  if (!job?.completed_at) return null;
  const took = duration(job.started_at ?? job.created_at, job.completed_at);
  return (
    <>
      <p class="fine">
        Engine: {job.engine} {job.engine_version} · took {took}
      </p>
      {job.type !== "merge" && (
        <details>
          <summary>Files of this step</summary>
          <ul>
            {job.artifacts?.map(({ path, size }) => (
              <li key={path}>
                <a href={path} download={nameOf(path)}>
                  {nameOf(path)}
                </a>{" "}
                {megabytes(size)}
              </li>
            ))}
          </ul>
        </details>
      )}
      {job.notes?.map((note) => (
        <p class="note" key={note}>
          {note}
        </p>
      ))}
    </>
  );
}
