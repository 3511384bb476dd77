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
  const sending = studio.uploading.value !== null;
  useEffect(() => {
    // A job goes on without the page, an upload does not.
    const warn = (event: BeforeUnloadEvent) => event.preventDefault();
    if (sending) addEventListener("beforeunload", warn);
    return () => removeEventListener("beforeunload", warn);
  }, [sending]);
  const work = workOf(studio);
  return (
    <div class="doing">
      {work && (
        <>
          <label for="progress">{work.title}</label>
          <progress id="progress" max={work.total} value={work.done} />
        </>
      )}
      <div class="row">
        {work && <span class="fine">{work.amount}</span>}
        {/* The stages are read out. Bytes and percents would never let one listen to the end. */}
        <span class="fine" role="status">
          {work?.stage}
        </span>
        {work && (
          <button type="button" class="quiet" onClick={() => void studio.cancel()}>
            Cancel
          </button>
        )}
      </div>
    </div>
  );
}

interface Doing {
  title: string;
  done: number;
  total: number;
  amount: string;
  stage: string;
}

function workOf(studio: Studio): Doing | null {
  const { uploading, running } = { uploading: studio.uploading.value, running: studio.running.value };
  if (running) {
    const { progress, message } = running.progress;
    return { title: DOING[running.job.type], done: progress, total: 100, amount: `${progress} %`, stage: message };
  }
  if (!uploading) return null;
  const { sent, total } = uploading;
  const title = studio.model.value?.upload ? "Sending the skeleton" : "Sending the model";
  return { title, done: sent, total, amount: `${megabytes(sent)} of ${megabytes(total)}`, stage: "" };
}
