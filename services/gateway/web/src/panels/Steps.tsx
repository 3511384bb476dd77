import { STEPS, type Step, type Studio } from "../studio";

const TITLES: Record<Step, string> = {
  model: "Model",
  skeleton: "Skeleton",
  weights: "Weights",
  download: "Download",
};

/** The way through the job; what was reached can be looked at again. */
export function Steps({ studio }: { studio: Studio }) {
  const blocked = studio.running.value !== null || studio.busy.value;
  return (
    <nav aria-label="Steps" class="steps">
      <ol>
        {STEPS.map((step, place) => (
          <li key={step}>
            <button
              type="button"
              aria-current={studio.step.value === step ? "step" : undefined}
              disabled={blocked || (studio.step.value !== step && !studio.has(step))}
              onClick={() => void studio.goTo(step)}
            >
              <span class="step-number">{place + 1}</span> {TITLES[step]}
            </button>
          </li>
        ))}
      </ol>
    </nav>
  );
}
