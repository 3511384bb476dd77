import { useEffect, useState } from "preact/hooks";

import type { Job } from "../api";
import type { Studio } from "../studio";

/** A job with what the list of jobs leaves out, such as its files; null until it has come. */
export function useWholeJob(job: Job | null | undefined, studio: Studio): Job | null {
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
  return whole;
}
