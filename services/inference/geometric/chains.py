"""Skeletons of bodies without a standard: a chain of joints along every branch of the curves."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from services.inference.geometric.body_plan import BodyPlan, Limb, Plan
from services.inference.geometric.curve_tree import CurveTree
from services.inference.geometric.draft import SHORTEST, Draft, chain_corners, limb_corners
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Indices, Points

# The corners of a dense polyline that become joints; among them must be the given indices.
Corners = Callable[[Points, list[int]], Indices]

# Forks nearer to each other than this share one joint, body units.
_SAME_FORK = 0.08
# A tail grows no farther than this from the root, body units.
_AT_ROOT = 0.2
# Shoulder or thigh, upper and lower leg, foot.
_LEG_BONES = 4
_PROP_JOINTS = 3
_MOST_NAMED_PAIRS = 5


def side_name(side: int, facing: int) -> str:
    """The body's own left and right: facing +Z with +Y up, left is +X."""
    return {0: "centre", 1: "left", -1: "right"}[side * facing]


def hind_fork(tree: CurveTree, plan: BodyPlan) -> int:
    """The point where the hindmost standing limbs leave the trunk: the root of an animal."""
    standing = plan.legs(1)
    if not standing:
        return 0
    return min(standing, key=lambda e: plan.facing * tree.points[e.tips[0], 2]).fork


def chain_skeleton(tree: CurveTree, plan: BodyPlan, corners_of: Corners = chain_corners) -> Draft:
    """A joint tree along all branches of a curve tree, rooted where its root is."""
    draft = Draft()
    paths = _branches(tree, plan)
    names = _branch_names(tree, plan, paths)
    legs = {leg.tips[0] for side in (1, -1) for leg in plan.legs(side)} - {paths[0][-1]}
    animal = plan.plan is Plan.QUADRUPED
    joint_at: dict[int, int] = {}
    for path, name in zip(paths, names, strict=True):
        _add_branch(draft, tree, path, name, path[-1] in legs, animal, joint_at, corners_of)
    if plan.plan is Plan.QUADRUPED:
        _name_neck_and_head(draft, tree, plan, paths[0], joint_at)
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


def _branches(tree: CurveTree, plan: BodyPlan) -> list[list[int]]:
    """Paths that cover the tree: first the trunk, each next one from its fork to its tip.

    At a fork the path goes on where the most curve lies ahead; at the hips of an animal, where
    the front is. What runs along the mirror plane ends there, and never turns into a limb.
    """
    children = tree.children
    lead = plan.facing * tree.points[:, 2]
    for point in range(len(tree.parents) - 1, 0, -1):
        parent = int(tree.parents[point])
        lead[parent] = max(lead[parent], lead[point])
    ahead = np.zeros(len(tree.parents))
    for point in range(len(tree.parents) - 1, 0, -1):
        parent = int(tree.parents[point])
        step = float(np.linalg.norm(tree.points[point] - tree.points[parent]))
        ahead[parent] = max(ahead[parent], ahead[point] + step)
    central = (tree.points[:, 0] == 0.0) & (plan.plan is not Plan.GENERIC)
    animal = plan.plan is Plan.QUADRUPED
    paths, pending = [], [[0]]
    while pending:
        path = pending.pop(0)
        while children[path[-1]]:
            order = ahead + 20.0 * lead if animal and path == [0] else ahead
            below = sorted(children[path[-1]], key=lambda c: (not central[c], -order[c], c))
            goes_on = central[below[0]] == central[path[-1]]
            pending += [[path[-1], child] for child in below[int(goes_on) :]]
            if not goes_on:
                break
            path.append(below[0])
        paths.append(path)
    return paths


def _add_branch(
    draft: Draft,
    tree: CurveTree,
    path: list[int],
    name: str,
    leg: bool,
    animal: bool,
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
        if leg and animal:
            leave = 0.0
        start = 1 + int(np.searchsorted(travelled, max(leave, SHORTEST)))
        start = min(start, len(path) - 2)
    if leg:
        corners = start + limb_corners(points[start:], _LEG_BONES)
    else:
        corners = start + corners_of(points[start:], _forks(tree, path, start))
    if len(corners) < 2:
        joint_at.update(dict.fromkeys(path, parent))
        return
    joints = _named(draft, name, parent, points[corners])
    for place, point in enumerate(path):
        if place or parent < 0:
            nearest = int(np.abs(corners[:-1] - place).argmin())
            joint_at[point] = joints[nearest]


def _name_neck_and_head(
    draft: Draft, tree: CurveTree, plan: BodyPlan, trunk: list[int], joint_at: dict[int, int]
) -> None:
    """Rename what lies ahead of the front legs on the trunk."""
    places = {point: place for place, point in enumerate(trunk)}
    shoulders = max(places.get(leg.fork, 0) for leg in plan.legs(1))
    last_spine = joint_at[trunk[shoulders]]
    ahead = sorted({joint_at[p] for p in trunk[shoulders:]} - {last_spine})
    for number, joint in enumerate(ahead, start=1):
        draft.names[joint] = "head" if number == len(ahead) else f"neck_{number}"


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


def _branch_names(tree: CurveTree, plan: BodyPlan, paths: list[list[int]]) -> list[str]:
    limb_of = {tip: limb for limb in plan.limbs for tip in limb.tips}
    ranks = _ground_ranks(tree, plan)
    used: Counter[str] = Counter()
    names = []
    for number, path in enumerate(paths):
        limb = limb_of.get(path[-1])
        name = "spine" if number == 0 else _role(tree, plan, limb, path, ranks)
        used[name] += 1
        names.append(name if used[name] == 1 else f"{name}_{_letter(used[name])}")
    return names


def _letter(number: int) -> str:
    return chr(ord("a") + number - 1) if number <= 26 else f"n{number}"


def _role(
    tree: CurveTree,
    plan: BodyPlan,
    limb: Limb | None,
    path: list[int],
    ranks: dict[int, str],
) -> str:
    if limb is None or plan.plan is Plan.GENERIC:
        return "branch"
    tip, fork = tree.points[path[-1]], tree.points[path[0]]
    behind = plan.facing * (tip[2] - fork[2]) < 0
    at_root = float(np.linalg.norm(fork - tree.points[0])) < _AT_ROOT
    if behind and at_root and not limb.paired:
        return "tail"
    if limb.side == 0:
        return "branch"
    side = side_name(limb.side, plan.facing)
    if path[-1] in ranks:
        return f"{ranks[path[-1]]}_{side}"
    front = [plan.facing * tree.points[leg.fork, 2] for leg in plan.legs(1)]
    on_head = plan.plan is Plan.QUADRUPED and plan.facing * fork[2] > max(front)
    return f"ear_{side}" if on_head and limb.paired else f"branch_{side}"


def _ground_ranks(tree: CurveTree, plan: BodyPlan) -> dict[int, str]:
    """The names of the standing limbs by their main tips: leg_front, leg_back, leg_1, …"""
    ranks: dict[int, str] = {}
    for side in (1, -1):
        standing = sorted(
            plan.legs(side),
            key=lambda e: -plan.facing * float(tree.points[e.tips[0], 2]),
        )
        if len(standing) > _MOST_NAMED_PAIRS:
            continue
        for place, limb in enumerate(standing):
            if len(standing) == 1:
                ranks[limb.tips[0]] = "leg"
            elif len(standing) == 2:
                ranks[limb.tips[0]] = ("leg_front", "leg_back")[place]
            else:
                ranks[limb.tips[0]] = f"leg_{place + 1}"
    return ranks
