import { effect } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";

import type { Studio } from "../studio";
import { theme } from "../theme";
import type { Viewer } from "../view/viewer";
import { HeatLegend } from "./HeatLegend";

/** The 3D view, and where files are dropped. */
export function Stage({ studio }: { studio: Studio }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [viewer, setViewer] = useState<Viewer | null>(null);
  const [over, setOver] = useState(false);
  /** Why there is no view. */
  const [blind, setBlind] = useState<string | null>(null);
  const [grid, setGrid] = useState(true);
  const [wireframe, setWireframe] = useState(false);

  useEffect(() => {
    let made: Viewer | null = null;
    let gone = false;
    const stops: (() => void)[] = [];
    // The view is most of the page's weight: the rest is there before it.
    const loaded = import("../view/viewer").catch(() => {
      throw new Error("The 3D view could not be loaded: reload the page to see it.");
    });
    void loaded.then(({ Viewer: View }) => {
      if (gone || !canvas.current) return;
      made = new View(canvas.current, {
        select: (id) => {
          studio.selected.value = id;
        },
        hover: (id) => {
          studio.hovered.value = id;
        },
        moveJoint: (id, head, done) => studio.move(id, head, done),
        poseJoint: (id) => {
          if (made) studio.turned(id, made.turnOf(id));
        },
      });
      studio.viewer = made;
      stops.push(...bind(made, studio, canvas.current));
      setViewer(made);
    }).catch((error: Error) => setBlind(error.message));
    return () => {
      gone = true;
      for (const stop of stops) stop();
      made?.dispose();
    };
  }, [studio]);

  useEffect(() => viewer?.setGrid(grid), [viewer, grid]);
  useEffect(() => viewer?.setWireframe(wireframe), [viewer, wireframe]);
  useEffect(() => listen(studio, viewer, setOver), [studio, viewer]);

  const reading = studio.shown.value && !studio.counts.value && !studio.unseen.value && !blind;
  return (
    <section class="stage" aria-label="3D view" data-over={over || undefined}>
      <canvas
        ref={canvas}
        tabIndex={0}
        role="img"
        aria-label={studio.model.value ? `3D view of ${studio.model.value.name}` : "Empty 3D view"}
        aria-describedby="keys"
      />
      <p class="keys" id="keys">
        Arrows turn, Shift+arrows move, + and − zoom, F fits the model into view.
      </p>
      {(over || !studio.model.value) && <p class="over">{over ? "Drop it" : "Drop a model here"}</p>}
      {!over && reading && <p class="over reading">Reading the model</p>}
      {blind && <p class="over">{blind} The model can be rigged all the same.</p>}
      <HeatLegend studio={studio} />
      <div class="tools" role="toolbar" aria-label="View">
        <button type="button" onClick={() => viewer?.frame()}>
          Frame
        </button>
        <button type="button" aria-pressed={grid} onClick={() => setGrid(!grid)}>
          Grid
        </button>
        <button type="button" aria-pressed={wireframe} onClick={() => setWireframe(!wireframe)}>
          Wireframe
        </button>
      </div>
    </section>
  );
}

/** Shows in the view what the signals say; returns what ends that. */
function bind(viewer: Viewer, studio: Studio, canvas: HTMLCanvasElement): (() => void)[] {
  return [
    effect(() => viewer.setTheme(theme.value)),
    effect(() => void show(viewer, studio, canvas)),
    effect(() => {
      const seen = studio.step.value !== "model";
      viewer.setSkeleton(seen ? (studio.dragged.value ?? studio.skeleton.value) : null);
    }),
    effect(() => viewer.setSelected(studio.selected.value)),
    effect(() => viewer.setHovered(studio.hovered.value)),
    effect(() => {
      const posing = studio.step.value === "weights" && studio.posing.value;
      viewer.setMode(studio.step.value === "skeleton" ? "edit" : posing ? "pose" : "look");
    }),
    effect(() => {
      const warm = studio.step.value === "weights" && studio.heat.value;
      viewer.setHeat(warm ? (studio.selectedJoint.value?.name ?? null) : null);
    }),
    effect(() => viewer.setSwinging(studio.step.value === "weights" && studio.swinging.value)),
  ];
}

async function show(viewer: Viewer, studio: Studio, canvas: HTMLCanvasElement): Promise<void> {
  const shown = studio.shown.value;
  studio.counts.value = null;
  if (!shown) {
    viewer.clear();
    return;
  }
  try {
    const counts = await viewer.show(shown.bytes, shown.format, { frame: shown.frame });
    if (studio.shown.peek() !== shown) return;
    studio.counts.value = counts;
    canvas.dataset.vertices = String(counts.vertices);
    canvas.dataset.triangles = String(counts.triangles);
    await studio.keepThumbnail();
  } catch (error) {
    if (studio.shown.peek() !== shown) return; // Another came before this one was read.
    studio.unseen.value = (error as Error).message;
  }
}

/** Files that are dropped on the page, and its keys. Returns what ends that. */
function listen(studio: Studio, viewer: Viewer | null, setOver: (over: boolean) => void): () => void {
  const listening = new AbortController();
  const { signal } = listening;
  addEventListener(
    "dragover",
    (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      setOver(true);
    },
    { signal },
  );
  addEventListener("dragleave", (event) => event.relatedTarget === null && setOver(false), { signal });
  addEventListener(
    "drop",
    (event) => {
      event.preventDefault();
      setOver(false);
      const file = event.dataTransfer?.files[0];
      if (file) void studio.openFile(file);
    },
    { signal },
  );
  addEventListener(
    "keydown",
    (event) => {
      if (event.target instanceof HTMLInputElement) return;
      const key = event.key.toLowerCase();
      if (event.ctrlKey || event.metaKey) {
        if (key !== "z") return;
        event.preventDefault();
        if (event.shiftKey) studio.redo();
        else studio.undo();
      } else if (key === "f") viewer?.frame();
    },
    { signal },
  );
  return () => listening.abort();
}
