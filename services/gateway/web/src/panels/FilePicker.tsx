import { useRef } from "preact/hooks";

import type { Studio } from "../studio";

interface Props {
  studio: Studio;
  label: string;
  primary?: boolean;
}

/** A button that opens the system's file dialog. */
export function FilePicker({ studio, label, primary }: Props) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <button
        type="button"
        class={primary ? "primary" : undefined}
        onClick={() => input.current?.click()}
      >
        {label}
      </button>
      <input
        ref={input}
        type="file"
        hidden
        accept=".obj,.fbx,.glb,.vrm"
        onChange={(event) => {
          const file = event.currentTarget.files?.[0];
          event.currentTarget.value = "";
          if (file) void studio.openFile(file);
        }}
      />
    </>
  );
}
