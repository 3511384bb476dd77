import { count } from "../sizes";
import type { Studio } from "../studio";
import { BoneTree } from "./BoneTree";
import { JointEditor } from "./JointEditor";
import { Notes } from "./Notes";
import { useWholeJob } from "./whole_job";

/** The second step: look at the skeleton, mend it, go on. */
export function SkeletonPanel({ studio }: { studio: Studio }) {
  const job = useWholeJob(studio.project.value?.skeleton, studio);
  const skeleton = studio.skeleton.value;
  if (!skeleton) return <p class="note">The result has no skeleton.</p>;
  const waiting = studio.running.value !== null || studio.busy.value;
  return (
    <>
      <h2 tabIndex={-1}>Skeleton</h2>
      <p class="fine">
        {count(skeleton.length)} {skeleton.length === 1 ? "joint" : "joints"}. Click one to select it, drag it to
        move it.
      </p>
      <Notes job={job} />
      <BoneTree studio={studio} />
      <JointEditor studio={studio} />
      <div class="row" role="group" aria-label="Changes">
        <button type="button" disabled={!studio.undoable.value} onClick={() => studio.undo()}>
          Undo
        </button>
        <button type="button" disabled={!studio.redoable.value} onClick={() => studio.redo()}>
          Redo
        </button>
      </div>
      <button
        type="button"
        class="primary"
        disabled={waiting}
        onClick={() => void studio.makeWeights()}
      >
        Looks right: make the weights
      </button>
    </>
  );
}
