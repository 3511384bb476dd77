import { nameOf } from "../projects";
import { count, megabytes } from "../sizes";
import type { Studio } from "../studio";
import { Notes } from "./Notes";
import { useWholeJob } from "./whole_job";

const FORMATS = [
  { format: "glb", title: "GLB", use: "three.js, Godot, the web" },
  { format: "fbx", title: "FBX", use: "Blender, Unity, Unreal, Maya" },
  { format: "vrm", title: "VRM", use: "avatars: needs a humanoid" },
];

/** The last step: the rigged model as a file. */
export function DownloadPanel({ studio }: { studio: Studio }) {
  const merge = useWholeJob(studio.project.value?.merge, studio);
  const counts = studio.counts.value;
  const waiting = studio.running.value !== null || studio.busy.value;
  return (
    <>
      <h2 tabIndex={-1}>Download</h2>
      <dl class="facts">
        <div>
          <dt>Bones</dt>
          <dd>{count(studio.skeleton.value?.length ?? 0)}</dd>
        </div>
        {counts && (
          <div>
            <dt>Vertices</dt>
            <dd>{count(counts.vertices)}</dd>
          </div>
        )}
      </dl>
      <ul class="formats">
        {FORMATS.map(({ format, title, use }) => {
          const made = merge?.artifacts?.find((each) => each.format === format);
          return (
            <li key={format}>
              <span>
                <strong>{title}</strong> <span class="fine">{use}</span>
              </span>
              {made ? (
                <a class="button primary" href={made.path} download={nameOf(made.path)}>
                  Download {nameOf(made.path)} ({megabytes(made.size)})
                </a>
              ) : (
                <button type="button" disabled={waiting} onClick={() => void studio.makeRig(format)}>
                  Make the {title}
                </button>
              )}
            </li>
          );
        })}
      </ul>
      <Notes job={merge} />
      <button type="button" class="quiet" onClick={() => void studio.leave()}>
        Rig another model
      </button>
    </>
  );
}
