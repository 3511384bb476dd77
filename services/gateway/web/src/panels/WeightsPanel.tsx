import type { Studio } from "../studio";
import { BoneTree } from "./BoneTree";
import { Notes } from "./Notes";
import { PoseEditor } from "./PoseEditor";

/** The third step: see where each bone pulls, pose the model, see it move. */
export function WeightsPanel({ studio }: { studio: Studio }) {
  return (
    <>
      <h2 tabIndex={-1}>Weights</h2>
      <p class="fine">Select a bone to see what it moves: warm is much, cold is nothing.</p>
      <Notes job={studio.project.value?.skinning ?? null} studio={studio} />
      <BoneTree studio={studio} />
      <label class="check">
        <input
          type="checkbox"
          checked={studio.heat.value}
          onChange={(event) => {
            studio.heat.value = event.currentTarget.checked;
          }}
        />
        Weights of the selected bone
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={studio.swinging.value}
          onChange={(event) => {
            studio.swinging.value = event.currentTarget.checked;
          }}
        />
        Test animation
      </label>
      <PoseEditor studio={studio} />
      <button type="button" class="primary" onClick={() => void studio.goTo("download")}>
        Choose a format
      </button>
    </>
  );
}
