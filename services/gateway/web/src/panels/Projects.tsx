import { useEffect, useState } from "preact/hooks";

import { nameOf, type Project } from "../projects";
import { findThumbnail } from "../remembered";
import type { Studio } from "../studio";

/** The session's earlier models. */
export function Projects({ studio }: { studio: Studio }) {
  const projects = studio.projects.value;
  if (projects.length === 0) return null;
  return (
    <section aria-labelledby="earlier">
      <h3 id="earlier">Earlier</h3>
      <ul class="projects">
        {projects.map((project) => (
          <Earlier key={project.upload} project={project} studio={studio} />
        ))}
      </ul>
    </section>
  );
}

function Earlier({ project, studio }: { project: Project; studio: Studio }) {
  const name = nameOf(project.upload);
  const [asked, setAsked] = useState(false);
  if (asked) {
    return (
      <li>
        <p>Delete {name} and all that was made of it?</p>
        <div class="row">
          <button type="button" ref={focus} onClick={() => void studio.removeProject(project)}>
            Delete for good
          </button>
          <button type="button" class="quiet" onClick={() => setAsked(false)}>
            Keep
          </button>
        </div>
      </li>
    );
  }
  return (
    <li>
      <button type="button" class="open" onClick={() => void studio.openProject(project)}>
        <Thumbnail path={project.upload} />
        <span>
          <strong>{name}</strong>
          <span class="fine">{stateOf(project)}</span>
        </span>
      </button>
      <button
        type="button"
        class="quiet"
        aria-label={`Delete ${name}`}
        onClick={() => setAsked(true)}
      >
        Delete
      </button>
    </li>
  );
}

/** Stable, so that the button takes the focus only when it appears. */
function focus(element: HTMLElement | null): void {
  element?.focus();
}

function stateOf(project: Project): string {
  const [newest] = project.jobs;
  if (newest && (newest.status === "pending" || newest.status === "running")) return "In the works";
  if (project.merge) return "Rigged";
  if (project.skinning) return "Has weights";
  if (project.skeleton) return "Has a skeleton";
  return newest?.status === "failed" ? "Failed" : "Not rigged";
}

function Thumbnail({ path }: { path: string }) {
  const [address, setAddress] = useState<string | null>(null);
  useEffect(() => {
    let made: string | null = null;
    let gone = false;
    void findThumbnail(path).then((blob) => {
      if (!blob || gone) return;
      made = URL.createObjectURL(blob);
      setAddress(made);
    });
    return () => {
      gone = true;
      if (made) URL.revokeObjectURL(made);
    };
  }, [path]);
  return address ? (
    <img class="thumbnail" src={address} alt="" width={64} height={64} />
  ) : (
    <span class="thumbnail" />
  );
}
