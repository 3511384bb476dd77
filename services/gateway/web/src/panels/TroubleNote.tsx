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
            {trouble.retry && (
              <button type="button" onClick={trouble.retry}>
                Try again
              </button>
            )}
            <button
              type="button"
              class="quiet"
              onClick={() => {
                studio.trouble.value = null;
              }}
            >
              Close
            </button>
          </div>
        </div>
      )}
    </div>
  );
}
