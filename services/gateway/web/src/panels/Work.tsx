import { useEffect } from "preact/hooks";

import type { JobType } from "../api";
import { megabytes } from "../sizes";
import type { Studio } from "../studio";

const DOING: Record<JobType, string> = {
  skeleton: "Making the skeleton",
  skinning: "Making the weights",
  merge: "Writing the rigged model",
};

/** What is under way: an upload or a job. */
export function Work({ studio }: { studio: Studio }) {
  const { uploading, running } = { uploading: studio.uploading.value, running: studio.running.value };
  const sending = uploading !== null;
  useEffect(() => {
    // A job goes on without the page, an upload does not.
    const warn = (event: BeforeUnloadEvent) => event.preventDefault();
    if (sending) addEventListener("beforeunload", warn);
    return () => removeEventListener("beforeunload", warn);
  }, [sending]);
  return (
    <div class="doing" aria-live="polite">
      {uploading && (
        <>
          <label for="upload-progress">Sending the model</label>
          <progress id="upload-progress" max={uploading.total || 1} value={uploading.sent} />
          <p class="fine">
            {megabytes(uploading.sent)} of {megabytes(uploading.total)}
          </p>
        </>
      )}
      {running && (
        <>
          <label for="job-progress">{DOING[running.job.type]}</label>
          <progress id="job-progress" max={100} value={running.progress.progress} />
          <div class="row spread">
            <p class="fine" data-connected={running.progress.connected}>
              {running.progress.progress} % · {running.progress.message}
            </p>
            <button type="button" class="quiet" onClick={() => void studio.cancel()}>
              Cancel
            </button>
          </div>
        </>
      )}
    </div>
  );
}
