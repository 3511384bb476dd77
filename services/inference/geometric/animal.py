"""Animals: a trunk from tail to head, and legs, wings and ears in pairs along it.

Joints are few and where an artist puts them: in the trunk where limbs grow from it, in a limb
where it leaves the trunk and where it bends.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from services.inference.geometric.bird import wing_line
from services.inference.geometric.body_plan import BodyPlan, Limb, Plan, limb_path
from services.inference.geometric.chains import side_name
from services.inference.geometric.curve_tree import CurveTree, travelled
from services.inference.geometric.draft import (
    SHORTEST,
    Draft,
    bend,
    even_corners,
    joint_places,
    limb_corners,
)
from services.inference.geometric.ears import find_ears
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Indices, Points

# Usual lengths of bones, body units.
_SPINE_BONE = 0.4
_NECK_BONE = 0.25
_TAIL_BONE = 0.15
_BRANCH_BONE = 0.4
_NECK_BONES = (2, 4)
_BIRD_NECK_BONES = 3
_TAIL_BONES = (1, 8)
_WING_BONES = 3
_LEG_BONES = 3
_LONGEST_BONE = 0.4
_HIND_LEG_BONES = 4
# A foot's share of the height of a leg.
_FOOT = 0.11
# A bird's ankle is lower than this share of it, and shows as a bend by so much, body units.
_LOW = 0.25
_FOOT_BEND = 0.02
# Bends of a leg are at least this share of it apart.
_APART = 0.15
# The head begins at its clearest bend between these shares of the way from the chest to its tip.
_NAPE = (0.5, 0.9)
_NAPE_BEND = 0.04
_HEAD = 0.75
# Among many legs the head begins at this many radii of the body from its middle.
_NECK = 1.2
# A tail begins where the body has become thinner than this share of what it is at the hips.
_TAIL_ROOT = 0.6
# What is not this many times as long as thick is a lump, and moves with what it grows from.
_SLENDER = 3.0
_SHORTEST_BRANCH = 0.12


@dataclass(frozen=True)
class _Trunk:
    """Points of the tree from its root to the tip of the head, and to that of the tail; behind is
    the root alone where there is no tail."""

    ahead: list[int]
    behind: list[int]


def root_of(tree: CurveTree, plan: BodyPlan) -> int:
    """The point of the trunk where the hindmost legs leave it; among many legs, their middle."""
    legs = [leg for side in (1, -1) for leg in plan.legs(side)]
    if not legs:
        return 0
    if plan.plan is Plan.MULTIPED:
        forks = tree.points[[leg.fork for leg in legs]]
        central = np.flatnonzero(plan.central)
        away = np.linalg.norm(tree.points[central] - forks.mean(axis=0), axis=1)
        return int(central[away.argmin()])
    return min(legs, key=lambda e: plan.facing * tree.points[e.tips[0], 2]).fork


def animal_skeleton(
    tree: CurveTree, plan: BodyPlan, solid: Solid, surface: tuple[Points, Indices]
) -> Draft:
    """Named joints for a tree whose root is the trunk's joint of the hindmost legs, or of all.

    surface: vertices and faces of the body.
    """
    draft = Draft()
    trunk = _trunk(tree, plan)
    if plan.plan is Plan.MULTIPED:
        _add_short_trunk(draft, tree, plan, trunk)
    else:
        _add_long_trunk(draft, tree, plan, trunk)
    joints = np.array(draft.heads)
    ears = _small_ears(draft, plan, surface)
    names: Counter[str] = Counter()
    ranks = _leg_names(tree, plan)
    for limb in plan.limbs:
        path = _from_trunk(tree, limb, trunk)
        if len(path) < 3 or limb.tips[0] in (trunk.ahead[-1], trunk.behind[-1]):
            continue
        nearest = int(np.linalg.norm(joints - tree.points[path[0]], axis=1).argmin())
        points = _outside(tree, path)
        side = side_name(limb.side, plan.facing)
        if ears and not limb.side and draft.names[nearest] == "head":
            continue  # what the curves made of both ears or horns
        if limb in plan.wings:
            line = wing_line(points, plan.facing, solid)
            name, places = "wing", line[even_corners(line, _WING_BONES)]
        elif limb.tips[0] in ranks:
            name = ranks[limb.tips[0]]
            places = joint_places(points, _leg_corners(points, plan, name))
        elif _is_slender(tree, path) and (not plan.wings or draft.names[nearest] == "head"):
            name = "ear" if limb.paired and draft.names[nearest] == "head" else "branch"
            places = points[even_corners(points, _bones(points, _BRANCH_BONE))]
        else:
            continue
        name = f"{name}_{side}"
        names[name] += 1
        letter = "" if names[name] == 1 else f"_{chr(ord('a') + names[name] - 1)}"
        draft.add_chain(name + letter, nearest, places)
    for ear, ear_side in zip(ears, (1, -1), strict=False):
        head = draft.names.index("head")
        draft.add_chain(f"ear_{side_name(ear_side, plan.facing)}", head, ear[[0, -1]])
    return draft


def _small_ears(
    draft: Draft, plan: BodyPlan, surface: tuple[Points, Indices]
) -> tuple[Points, ...]:
    """The ears of an animal on four legs that are too small for the curves, or none."""
    seen = any(limb.paired and not limb.grounded for limb in plan.limbs)
    if plan.plan is not Plan.QUADRUPED or seen or "head" not in draft.names:
        return ()
    head = draft.names.index("head")
    return find_ears(*surface, draft.heads[head], draft.tails[head])


def _trunk(tree: CurveTree, plan: BodyPlan) -> _Trunk:
    lead = plan.facing * (tree.points[:, 2] - tree.points[0, 2])
    tips = [e.tips[0] for e in plan.limbs if not e.paired and (e.side == 0 or not e.grounded)]
    # Without a head the trunk ends at its foremost limbs.
    ends = [*tips, *(e.fork for e in plan.limbs if e.paired)]
    front = max(ends, key=lambda end: lead[end], default=0)
    ahead = tree.path_up(front)[::-1] if lead[front] > 0.0 else [0]
    others = [tip for tip in tips if tip not in ahead]
    back = min(others, key=lambda tip: lead[tip], default=0)
    behind = [point for point in tree.path_up(back)[::-1] if point not in ahead[1:]]
    return _Trunk(ahead, behind if lead[back] < -float(tree.radii[0]) else [0])


def _add_long_trunk(draft: Draft, tree: CurveTree, plan: BodyPlan, trunk: _Trunk) -> None:
    """Root at the hind legs, spine to the front legs or wings, neck, head; and the tail."""
    points = tree.points[trunk.ahead]
    if len(points) < 2:
        points = np.array([points[0], points[0] + [0.0, 0.0, plan.facing * SHORTEST]])
    aloft = [e for e in plan.limbs if e.side and e.paired and not e.grounded]
    forward = [*plan.wings] or [e for e in plan.limbs if e.grounded and e.paired]
    if plan.plan is Plan.BIPED:
        forward = aloft[:2]
    chest = max((_fork_place(tree, limb, points) for limb in forward), default=len(points) // 2)
    ears = (_fork_place(tree, limb, points) for limb in aloft if limb not in forward)
    crown = max(ears, default=0)
    head = crown if crown > chest + 2 else chest + _nape(points[chest:])
    spine, neck = points[: chest + 1], points[chest : head + 1]
    least = 1 if plan.wings else 2
    spine_corners = even_corners(spine, _bones(spine, _SPINE_BONE, (least, 4)))[1:]
    bones = _BIRD_NECK_BONES if plan.wings else _bones(neck, _NECK_BONE, _NECK_BONES)
    neck_corners = chest + even_corners(neck, bones)[1:]
    names = ["root", *(f"spine_{number + 1}" for number in range(len(spine_corners)))]
    names += [f"neck_{number + 1}" for number in range(len(neck_corners) - 1)]
    names += ["head"] * (len(neck_corners) > 0)
    corners = np.array([0, *spine_corners, *neck_corners, len(points) - 1])
    _add_line(draft, names, -1, joint_places(points, corners))
    _add_tail(draft, tree, plan, trunk)


def _fork_place(tree: CurveTree, limb: Limb, trunk: Points) -> int:
    return int(np.linalg.norm(trunk - tree.points[limb.fork], axis=1).argmin())


def _add_short_trunk(draft: Draft, tree: CurveTree, plan: BodyPlan, trunk: _Trunk) -> None:
    """Root amid the legs, the head ahead of it, and the abdomen or the tail behind."""
    points = tree.points[trunk.ahead]
    start = int(np.searchsorted(travelled(points), _NECK * float(tree.radii[0])))
    if 0 < start < len(points) - 1:
        _add_line(draft, ["root", "head"], -1, points[[0, start, len(points) - 1]])
    else:
        draft.add("root", -1, points[0], points[0] + [0.0, 0.0, plan.facing * SHORTEST])
    _add_tail(draft, tree, plan, trunk)


def _add_tail(draft: Draft, tree: CurveTree, plan: BodyPlan, trunk: _Trunk) -> None:
    path = trunk.behind
    along = travelled(tree.points[path])
    thin = (tree.radii[path] < _TAIL_ROOT * tree.radii[0]) & (along < 0.5 * along[-1])
    points = tree.points[path[int(thin.argmax()) :]] if thin.any() else _outside(tree, path)
    if len(points) < 2 or travelled(points)[-1] < _SHORTEST_BRANCH:
        return
    thickness = float(tree.radii[path[-len(points) :]].max())
    bones = 1
    if not plan.wings and travelled(points)[-1] > _SLENDER * thickness:
        bones = _bones(points, _TAIL_BONE, _TAIL_BONES)
    draft.add_chain("tail", 0, points[even_corners(points, bones)])


def _add_line(draft: Draft, names: Iterable[str], parent: int, corners: Points) -> None:
    for place, name in enumerate(names):
        head, tail = corners[place : place + 2]
        if np.linalg.norm(tail - head) < SHORTEST:  # the trunk ends at this joint
            tail = head + np.array([0.0, SHORTEST, 0.0])
        parent = draft.add(name, parent, head, tail)


def _nape(points: Points) -> int:
    """Where on the way (n, 3) from the chest to the tip of the head the head begins."""
    along = travelled(points)
    low, high = (int(np.searchsorted(along, share * along[-1])) for share in _NAPE)
    split, distance = bend(points, low, len(points) - 1)
    if distance > _NAPE_BEND and split <= high:
        return split
    return int(np.searchsorted(along, _HEAD * along[-1]))


def _bones(points: Points, usual: float, limits: tuple[int, int] = (1, 4)) -> int:
    return int(np.clip(round(float(travelled(points)[-1]) / usual), *limits))


def _from_trunk(tree: CurveTree, limb: Limb, trunk: _Trunk) -> list[int]:
    """A limb's points from the trunk to its tip; its tip alone where it is the trunk's own."""
    path = limb_path(tree, limb)
    if limb.side == 0:
        path = tree.path_up(limb.tips[0])
        spine = {*trunk.ahead, *trunk.behind}
        path = path[: next(place for place, point in enumerate(path) if point in spine) + 1]
    return path[::-1]


def _outside(tree: CurveTree, path: list[int]) -> Points:
    """The points of a path from where it leaves the body around its first one.

    A limb that hangs from the spine by a link begins at the link's end.
    """
    points = tree.points[path]
    along = travelled(points)
    if len(path) < 3 or along[1] > 2 * SHORTEST:
        return points[1:]
    leaves = min(0.9 * float(tree.radii[path[0]]), 0.4 * float(along[-1]))
    return points[min(int(np.searchsorted(along, leaves)), len(path) - 2) :]


def _is_slender(tree: CurveTree, path: list[int]) -> bool:
    points = _outside(tree, path)
    length = float(travelled(points)[-1])
    thickness = float(tree.radii[path[-len(points) :]].mean())
    return length > max(_SLENDER * thickness, _SHORTEST_BRANCH)


def _leg_corners(points: Points, plan: BodyPlan, name: str) -> Indices:
    """The bends of a leg, of which an animal's last one is its foot."""
    if plan.plan is Plan.MULTIPED:
        return limb_corners(points, _LEG_BONES, _APART)
    bones = _HIND_LEG_BONES if name == "leg_back" else _LEG_BONES
    ankle = _ankle(points, bool(plan.wings))
    if ankle < 2 or ankle > len(points) - 2:
        return limb_corners(points, bones)
    upper = points[: ankle + 1]
    above = max(bones - 1, int(np.ceil(float(travelled(upper)[-1]) / _LONGEST_BONE)))
    return np.append(limb_corners(upper, above, _APART), len(points) - 1)


def _ankle(points: Points, bird: bool) -> int:
    """Where a leg ends and its foot begins. A bird's foot lies on the floor."""
    height = points[:, 1] - points[:, 1].min()
    if bird:
        low = int(np.flatnonzero(height >= _LOW * height[0])[-1])
        split, distance = bend(points, low, len(points) - 1)
        if distance > _FOOT_BEND:
            return split
    return int(np.flatnonzero(height >= _FOOT * height[0])[-1])


def _leg_names(tree: CurveTree, plan: BodyPlan) -> dict[int, str]:
    """The names of the legs by their tips, from the front: leg, leg_front, leg_back, leg_1, …"""
    names: dict[int, str] = {}
    if plan.wings and not plan.legs(1):
        # Legs that touch each other have curves that are no pair.
        return {e.tips[0]: "leg" for e in plan.limbs if e.grounded}
    for side in (1, -1):
        legs = sorted(
            plan.legs(side), key=lambda e: -plan.facing * float(tree.points[e.tips[0], 2])
        )
        numbered = [f"leg_{number}" for number in range(1, len(legs) + 1)]
        chosen = {1: ["leg"], 2: ["leg_front", "leg_back"]}.get(len(legs), numbered)
        names |= {leg.tips[0]: name for leg, name in zip(legs, chosen, strict=True)}
    return names
