import type { Studio } from "../studio";
import { Check } from "./Check";

const AXES = ["X", "Y", "Z"] as const;

/** Turns the selected joint: by the gizmo in the view, or by sliders. */
export function PoseEditor({ studio }: { studio: Studio }) {
  const joint = studio.selectedJoint.value;
  const turn = (joint && studio.pose.value.get(joint.id)) || [0, 0, 0];
  return (
    <fieldset class="editor">
      <legend>Pose</legend>
      <Check on={studio.posing} label="Turn the selected joint" />
      {studio.posing.value &&
        joint &&
        AXES.map((axis, place) => (
          <label key={axis} class="slider">
            {axis}
            <input
              type="range"
              min={-180}
              max={180}
              disabled={studio.swinging.value}
              value={Math.round(turn[place] ?? 0)}
              onInput={(event) => {
                const angles = [...turn] as [number, number, number];
                angles[place] = event.currentTarget.valueAsNumber;
                studio.turn(joint.id, angles);
              }}
            />
            <output>{Math.round(turn[place] ?? 0)}°</output>
          </label>
        ))}
      <button type="button" disabled={studio.pose.value.size === 0} onClick={() => studio.rest()}>
        Back to the rest pose
      </button>
    </fieldset>
  );
}
