import type { Studio } from "../studio";
import { BoneTree } from "./BoneTree";
import { Check } from "./Check";
import { Notes } from "./Notes";
import { PoseEditor } from "./PoseEditor";
import { useWholeJob } from "./whole_job";

/** The third step: see where each bone pulls, pose the model, see it move. */
export function WeightsPanel({ studio }: { studio: Studio }) {
  const skinning = useWholeJob(studio.project.value?.skinning, studio);
  return (
    <>
      <h2 tabIndex={-1}>Weights</h2>
      <p class="fine">Select a bone to see what it moves: warm is much, cold is nothing.</p>
      <Notes job={skinning} />
      <BoneTree studio={studio} />
      <Check on={studio.heat} label="Weights of the selected bone" />
      <Check on={studio.swinging} label="Test animation" />
      <PoseEditor studio={studio} />
      <button type="button" class="primary" onClick={() => void studio.goTo("download")}>
        Choose a format
      </button>
    </>
  );
}
