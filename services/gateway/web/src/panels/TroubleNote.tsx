import type { Studio } from "../studio";

/** What went wrong and what to do about it. */
export function TroubleNote({ studio }: { studio: Studio }) {
  const trouble = studio.trouble.value;
  return (
    <div role="alert">
      {trouble && (
        <div class="note trouble">
          <p>{trouble.text}</p>
          <div class="row">
            {trouble.actions.map(({ label, run }) => (
              <button type="button" key={label} onClick={run}>
                {label}
              </button>
            ))}
            {trouble.actions.length === 0 && (
              <button
                type="button"
                class="quiet"
                onClick={() => {
                  studio.trouble.value = null;
                }}
              >
                Close
              </button>
            )}
          </div>
        </div>
      )}
    </div>
  );
}
