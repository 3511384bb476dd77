import { count, megabytes } from "../sizes";
import type { Studio } from "../studio";
import { FilePicker } from "./FilePicker";
import { Projects } from "./Projects";

/** The first step: choose a model, look at it, go on. */
export function ModelPanel({ studio }: { studio: Studio }) {
  const model = studio.model.value;
  return model ? <Chosen studio={studio} /> : <Start studio={studio} />;
}

function Start({ studio }: { studio: Studio }) {
  return (
    <>
      <h2 tabIndex={-1}>Rig a model</h2>
      <p>
        Give a character, an animal or a thing; get it back with a skeleton and skinning weights, ready
        to be animated.
      </p>
      <FilePicker studio={studio} label="Choose a file" primary />
      <p class="fine">OBJ, FBX, GLB or VRM, up to 100 MB. Or drop it anywhere on the page.</p>
      <button type="button" onClick={() => void studio.openExample()}>
        Try the example
      </button>
      <Scarce studio={studio} />
      <Projects studio={studio} />
    </>
  );
}

function Chosen({ studio }: { studio: Studio }) {
  const model = studio.model.value;
  const { counts, unseen } = { counts: studio.counts.value, unseen: studio.unseen.value };
  if (!model) return null;
  const rigged = counts !== null && counts.bones > 0;
  const made = studio.project.value?.skeleton != null;
  const waiting = model.upload === null || studio.running.value !== null || studio.busy.value;
  return (
    <>
      <h2 class="name" tabIndex={-1}>{model.name}</h2>
      <dl class="facts">
        {model.size !== null && (
          <div>
            <dt>Size</dt>
            <dd>{megabytes(model.size)}</dd>
          </div>
        )}
        {counts && (
          <>
            <div>
              <dt>Vertices</dt>
              <dd>{count(counts.vertices)}</dd>
            </div>
            <div>
              <dt>Triangles</dt>
              <dd>{count(counts.triangles)}</dd>
            </div>
          </>
        )}
      </dl>
      {unseen && <p class="note">{unseen}</p>}
      {rigged && (
        <p class="note">
          The model has a skeleton of {count(counts.bones)} bones. A new one replaces it; or keep it, for new weights.
        </p>
      )}
      {made && (
        <button type="button" class="primary" onClick={() => void studio.goTo("skeleton")}>
          Look at the skeleton
        </button>
      )}
      <button
        type="button"
        class={made ? undefined : "primary"}
        disabled={waiting}
        onClick={() => void studio.makeSkeleton()}
      >
        {made ? "Make the skeleton anew" : "Make the skeleton"}
      </button>
      {rigged && (
        <button type="button" disabled={waiting} onClick={() => void studio.keepSkeleton()}>
          Keep its skeleton
        </button>
      )}
      <button type="button" class="quiet" onClick={() => void studio.leave()}>
        Choose another model
      </button>
      <Scarce studio={studio} />
    </>
  );
}

/** What runs short, said when it matters and not before. */
function Scarce({ studio }: { studio: Studio }) {
  const { disk, left } = { disk: studio.disk.value, left: studio.uploadsLeft.value };
  return (
    <>
      {left !== null && left <= 3 && (
        <p class="note">
          {left === 0
            ? "No uploads are left in this hour."
            : `${left} more ${left === 1 ? "upload is" : "uploads are"} possible in this hour.`}
        </p>
      )}
      {disk && (
        <p class="note">
          {disk.status === "critical"
            ? "The server's storage is full: it takes no new models for now."
            : `The server's storage runs low: ${count(Math.round(disk.free / 2 ** 30))} GB are free.`}
        </p>
      )}
    </>
  );
}
