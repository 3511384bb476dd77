import { heatColour } from "../heat_colours";
import type { Studio } from "../studio";

const STOPS = 9;

/** What the colours of the weights mean, and whose weights they are. */
export function HeatLegend({ studio }: { studio: Studio }) {
  const joint = studio.selectedJoint.value;
  if (studio.step.value !== "weights" || !studio.heat.value || !joint) return null;
  return (
    <figure class="legend">
      <figcaption>Weight of {joint.name}</figcaption>
      <div ref={paint} class="ramp" />
      <div class="row spread">
        <span>0</span>
        <span>1</span>
      </div>
    </figure>
  );
}

function paint(ramp: HTMLElement | null): void {
  const colours = Array.from({ length: STOPS }, (_, stop) =>
    heatColour(stop / (STOPS - 1)).map((part) => Math.round(255 * part)),
  );
  if (ramp) ramp.style.background = `linear-gradient(to right, ${colours.map((rgb) => `rgb(${rgb})`)})`;
}
