"""Skeletons of bodies without a standard: a chain of joints along every branch of the curves."""

from collections.abc import Callable

import numpy as np

from services.inference.geometric.curve_tree import CurveTree
from services.inference.geometric.draft import SHORTEST, Draft, chain_corners
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Indices, Points

# The corners of a dense polyline that become joints; among them must be the given indices.
Corners = Callable[[Points, list[int]], Indices]

# Forks nearer to each other than this share one joint, body units.
_SAME_FORK = 0.08
_PROP_JOINTS = 3


def side_name(side: int, facing: int) -> str:
    """The body's own left and right: facing +Z with +Y up, left is +X."""
    return {0: "centre", 1: "left", -1: "right"}[side * facing]


def chain_skeleton(
    tree: CurveTree, trunk: Corners = chain_corners, branches: Corners = chain_corners
) -> Draft:
    """A joint tree along all branches of a curve tree, rooted where its root is.

    trunk: the corners of what leaves the root. branches: those of all else.
    """
    draft = Draft()
    joint_at: dict[int, int] = {}
    for number, path in enumerate(_branches(tree)):
        name = "spine" if number == 0 else "branch"
        name = name if number < 2 else f"{name}_{_letter(number)}"
        _add_branch(draft, tree, path, name, joint_at, branches if path[0] else trunk)
    return draft


def prop_skeleton(solid: Solid) -> Draft:
    """A short chain along the longest side of a thing without limbs."""
    centres = solid.centres
    axis = int(np.ptp(centres, axis=0).argmax())
    along = centres[:, axis]
    stations = np.linspace(along.min(), along.max(), _PROP_JOINTS + 1)
    line = []
    for station in stations:
        distance = np.abs(along - station)
        line.append(centres[distance <= distance.min() + 1.5 * solid.cell].mean(axis=0))
    draft = Draft()
    root = draft.add("root", -1, line[0], line[1])
    draft.add_chain("bone", root, np.array(line[1:]))
    return draft


def _branches(tree: CurveTree) -> list[list[int]]:
    """Paths that cover the tree: first the trunk, each next one from its fork to its tip.

    At a fork the path goes on to the tip that is farthest from the root.
    """
    children = tree.children
    ahead = np.linalg.norm(tree.points - tree.points[0], axis=1)
    for point in range(len(tree.parents) - 1, 0, -1):
        parent = int(tree.parents[point])
        ahead[parent] = max(ahead[parent], ahead[point])
    paths, pending = [], [[0]]
    while pending:
        path = pending.pop(0)
        while children[path[-1]]:
            onwards, *others = sorted(children[path[-1]], key=lambda c: (-ahead[c], c))
            pending += [[path[-1], child] for child in others]
            path.append(onwards)
        paths.append(path)
    return paths


def _add_branch(
    draft: Draft,
    tree: CurveTree,
    path: list[int],
    name: str,
    joint_at: dict[int, int],
    corners_of: Corners,
) -> None:
    points = tree.points[path]
    if tree.length(path) < 2 * SHORTEST:
        if not draft.names:
            draft.add("root", -1, points[0], points[0] + np.array([0.0, SHORTEST, 0.0]))
        joint_at.update(dict.fromkeys(path, joint_at.get(path[0], 0)))
        return
    parent, start = -1, 0
    if draft.names:
        parent = joint_at[path[0]]
        travelled = np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))
        leave = min(0.8 * float(tree.radii[path[0]]), 0.4 * float(travelled[-1]))
        start = 1 + int(np.searchsorted(travelled, max(leave, SHORTEST)))
        start = min(start, len(path) - 2)
    corners = start + corners_of(points[start:], _forks(tree, path, start))
    if len(corners) < 2:
        joint_at.update(dict.fromkeys(path, parent))
        return
    joints = _named(draft, name, parent, points[corners])
    for place, point in enumerate(path):
        if place or parent < 0:
            nearest = int(np.abs(corners[:-1] - place).argmin())
            joint_at[point] = joints[nearest]


def _forks(tree: CurveTree, path: list[int], start: int) -> list[int]:
    """Where on the path, counted from start, a joint must be for others to hang from."""
    children = tree.children
    forks: list[int] = []
    for place in range(start + 1, len(path) - 1):
        if len(children[path[place]]) < 2:
            continue
        last = tree.points[path[start + forks[-1]]] if forks else tree.points[path[start]]
        if np.linalg.norm(tree.points[path[place]] - last) >= _SAME_FORK:
            forks.append(place - start)
    return forks


def _named(draft: Draft, name: str, parent: int, corners: Points) -> list[int]:
    if parent >= 0:
        return draft.add_chain(name, parent, corners)
    root = draft.add("root", -1, corners[0], corners[1])
    return [root, *draft.add_chain(name, root, corners[1:])]


def _letter(number: int) -> str:
    return chr(ord("a") + number - 1) if number <= 26 else f"n{number}"
