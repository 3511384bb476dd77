import { useEffect, useState } from "preact/hooks";

import type { Job } from "../api";
import { nameOf } from "../projects";
import { duration, megabytes } from "../sizes";
import type { Studio } from "../studio";

/** Who made a result, how long it took, and what the service has to say about it. */
export function Notes({ job, studio }: { job: Job | null; studio: Studio }) {
  const [whole, setWhole] = useState<Job | null>(null);
  const id = job?.job_id;
  useEffect(() => {
    let gone = false;
    setWhole(null);
    if (id) {
      studio.api.job(id).then(
        (found) => !gone && setWhole(found),
        () => {}, // It is said where the result itself cannot be had.
      );
    }
    return () => {
      gone = true;
    };
  }, [id, studio]);
  if (!whole?.completed_at) return null;
  const took = duration(whole.started_at ?? whole.created_at, whole.completed_at);
  return (
    <>
      <p class="fine">
        Engine: {whole.engine} {whole.engine_version} · took {took}
      </p>
      {whole.type !== "merge" && (
        <details>
          <summary>Files of this step</summary>
          <ul>
            {whole.artifacts?.map(({ path, size }) => (
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
      {whole.notes?.map((note) => (
        <p class="note" key={note}>
          {note}
        </p>
      ))}
    </>
  );
}
