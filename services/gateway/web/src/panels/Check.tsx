import type { Signal } from "@preact/signals";

/** A checkbox for what is on or off. */
export function Check({ on, label }: { on: Signal<boolean>; label: string }) {
  return (
    <label class="check">
      <input
        type="checkbox"
        checked={on.value}
        onChange={(event) => {
          on.value = event.currentTarget.checked;
        }}
      />
      {label}
    </label>
  );
}
