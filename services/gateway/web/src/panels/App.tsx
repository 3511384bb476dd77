import { useEffect, useRef } from "preact/hooks";

import type { Studio } from "../studio";
import { DownloadPanel } from "./DownloadPanel";
import { ModelPanel } from "./ModelPanel";
import { SkeletonPanel } from "./SkeletonPanel";
import { Stage } from "./Stage";
import { Steps } from "./Steps";
import { ThemeSwitch } from "./ThemeSwitch";
import { TroubleNote } from "./TroubleNote";
import { WeightsPanel } from "./WeightsPanel";
import { Work } from "./Work";

const PANELS = {
  model: ModelPanel,
  skeleton: SkeletonPanel,
  weights: WeightsPanel,
  download: DownloadPanel,
};

export function App({ studio }: { studio: Studio }) {
  const Panel = PANELS[studio.step.value];
  const panel = useRef<HTMLElement>(null);
  const opened = useRef(false);
  const waiting = studio.running.value !== null;
  useEffect(() => {
    // What had the focus went with the last step: the reader goes on at the top of this one.
    const lost = document.activeElement === document.body;
    if (opened.current && lost && !waiting) panel.current?.querySelector("h2")?.focus();
    opened.current = true;
  }, [Panel, studio.model.value, waiting]);
  return (
    <div class="page">
      <header class="bar">
        <h1>UniRig</h1>
        <Steps studio={studio} />
        <div class="bar-end">
          <ThemeSwitch />
          <a href="/api/docs">API</a>
        </div>
      </header>
      <main class="work">
        <Stage studio={studio} />
        <section class="panel" aria-label="This step" ref={panel}>
          <TroubleNote studio={studio} />
          <Work studio={studio} />
          <Panel studio={studio} />
        </section>
      </main>
    </div>
  );
}
