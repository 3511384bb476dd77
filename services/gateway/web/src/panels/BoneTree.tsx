import { useEffect, useRef } from "preact/hooks";

import type { Joint, Skeleton } from "../skeleton";
import type { Studio } from "../studio";

// Deeper names would have no room.
const MOST_INDENTS = 12;

/** The joints' names as a tree (WAI-ARIA): arrow keys walk through it. */
export function BoneTree({ studio }: { studio: Studio }) {
  const skeleton = studio.skeleton.value ?? [];
  const tree = useRef<HTMLUListElement>(null);
  const selected = studio.selected.value;
  useEffect(() => {
    const row = tree.current?.querySelector(`[data-joint="${selected}"]`);
    row?.scrollIntoView({ block: "nearest" });
  }, [selected]);
  const rows = depthFirst(skeleton);
  const focusable = selected ?? rows[0]?.joint.id;
  const select = (place: number) => {
    const row = rows[Math.min(Math.max(place, 0), rows.length - 1)];
    if (!row) return;
    studio.selected.value = row.joint.id;
    tree.current?.querySelector<HTMLElement>(`[data-joint="${row.joint.id}"]`)?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const place = rows.findIndex((row) => row.joint.id === focusable);
    const parent = rows.findIndex((row) => row.joint.id === rows[place]?.joint.parent);
    const child = rows.findIndex((row) => row.joint.parent === rows[place]?.joint.id);
    const target = {
      ArrowDown: place + 1,
      ArrowUp: place - 1,
      ArrowLeft: parent < 0 ? place : parent,
      ArrowRight: child < 0 ? place : child,
      Home: 0,
      End: rows.length - 1,
      Enter: place,
      " ": place,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    select(target);
  };
  return (
    <ul class="tree" role="tree" aria-label="Bones" ref={tree} onKeyDown={onKeyDown}>
      {rows.map(({ joint, depth }) => (
        <li
          key={joint.id}
          role="treeitem"
          aria-level={depth + 1}
          aria-selected={joint.id === selected}
          data-joint={joint.id}
          data-hovered={joint.id === studio.hovered.value || undefined}
          style={{ "--depth": Math.min(depth, MOST_INDENTS) }}
          tabIndex={joint.id === focusable ? 0 : -1}
          onClick={() => {
            studio.selected.value = joint.id;
          }}
          onPointerEnter={() => {
            studio.hovered.value = joint.id;
          }}
          onPointerLeave={() => {
            studio.hovered.value = null;
          }}
        >
          {joint.name}
        </li>
      ))}
    </ul>
  );
}

interface Row {
  joint: Joint;
  depth: number;
}

/** Every joint followed by its descendants. */
function depthFirst(skeleton: Skeleton): Row[] {
  const children = Map.groupBy(skeleton, (joint) => joint.parent);
  const rows: Row[] = [];
  const walk = (joint: Joint, depth: number) => {
    rows.push({ joint, depth });
    for (const child of children.get(joint.id) ?? []) walk(child, depth + 1);
  };
  for (const root of children.get(null) ?? []) walk(root, 0);
  return rows;
}
