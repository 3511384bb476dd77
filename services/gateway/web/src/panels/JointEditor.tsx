import type { Joint, Vector } from "../skeleton";
import type { Studio } from "../studio";
import { Check } from "./Check";

const AXES = ["X", "Y", "Z"] as const;

/** What can be done to the selected joint, without a mouse too. */
export function JointEditor({ studio }: { studio: Studio }) {
  const joint = studio.selectedJoint.value;
  if (!joint) return <p class="fine">No joint is selected.</p>;
  const leaf = !studio.skeleton.value?.some((other) => other.parent === joint.id);
  return (
    <fieldset class="editor">
      <legend>{joint.name}</legend>
      <label>
        Name
        <input
          key={`${joint.id} ${joint.name}`}
          type="text"
          defaultValue={joint.name}
          spellcheck={false}
          onChange={(event) => {
            studio.rename(joint.id, event.currentTarget.value);
            event.currentTarget.value = studio.selectedJoint.value?.name ?? joint.name;
          }}
        />
      </label>
      <Position joint={joint} studio={studio} />
      <Check on={studio.children} label="Move its children too" />
      <div class="row">
        <button type="button" onClick={() => studio.addChild(joint.id)}>
          Add a child
        </button>
        <button
          type="button"
          disabled={!leaf || joint.parent === null}
          onClick={() => studio.deleteLeaf(joint.id)}
        >
          Delete
        </button>
        <button
          type="button"
          disabled={!studio.mirrorable(joint)}
          onClick={() => studio.mirror(joint.id)}
        >
          Mirror
        </button>
      </div>
    </fieldset>
  );
}

/** The head's place in metres; the arrow keys move it by a hundredth of the skeleton's height. */
function Position({ joint, studio }: { joint: Joint; studio: Studio }) {
  const heights = (studio.skeleton.value ?? []).map((each) => each.head[1]);
  const size = Math.max(...heights) - Math.min(...heights) || 1;
  const step = 10 ** Math.floor(Math.log10(size / 50));
  return (
    <div class="row position" role="group" aria-label="Position">
      {AXES.map((axis, place) => (
        <label key={axis}>
          {axis}
          <input
            type="number"
            step={step}
            value={Number(joint.head[place]?.toPrecision(4))}
            onChange={(event) => {
              const head = [...joint.head] as [number, number, number];
              head[place] = event.currentTarget.valueAsNumber;
              if (head.every(Number.isFinite)) studio.move(joint.id, head as Vector, true);
            }}
          />
        </label>
      ))}
    </div>
  );
}
