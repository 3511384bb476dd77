"""What the ends of a curve skeleton are: legs, arms, head, tail."""

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from services.inference.geometric.curve_tree import CurveTree
from services.inference.geometric.solid import Solid

# A tip within this share of the height above the floor stands on it.
_GROUND = 0.12
# Limbs of the two sides are a pair if one tip is this near to the other's mirror image.
_PAIRED = 0.35


class Plan(Enum):
    BIPED = "biped"
    QUADRUPED = "quadruped"
    MULTIPED = "multiped"
    GENERIC = "generic"


@dataclass(frozen=True)
class Limb:
    """One end of the body. side: 1 for x > 0, -1 for x < 0, 0 on the mirror plane.

    tips: points of the curve tree, the farthest first. fork: the central point it grows from.
    grounded: whether it stands on the floor. paired: whether the other side has its like.
    """

    side: int
    tips: tuple[int, ...]
    fork: int
    grounded: bool
    paired: bool


@dataclass(frozen=True)
class BodyPlan:
    """limbs: every end of the tree. facing: +1 or -1, the direction of the front along z."""

    plan: Plan
    limbs: tuple[Limb, ...]
    facing: int

    def legs(self, side: int) -> list[Limb]:
        """The limbs of a side that stand on the floor and have their like on the other side."""
        return [e for e in self.limbs if e.side == side and e.grounded and e.paired]


def body_plan(tree: CurveTree, solid: Solid, symmetric: bool) -> BodyPlan:
    """Read the plan of a body from where its tips are: ground contacts, sides, heights."""
    centres = solid.centres
    limbs = _limbs(tree, floor=float(centres[:, 1].min()), height=float(np.ptp(centres[:, 1])))
    pairs = sum(1 for e in limbs if e.side == 1 and e.grounded and e.paired)
    plan = Plan.GENERIC
    if symmetric and pairs:
        plan = {1: Plan.BIPED, 2: Plan.QUADRUPED}.get(pairs, Plan.MULTIPED)
    return BodyPlan(plan=plan, limbs=tuple(limbs), facing=_facing(solid))


def _limbs(tree: CurveTree, floor: float, height: float) -> list[Limb]:
    """Group the tips: those that part only near their ends, as toes do, are one limb."""
    central = tree.points[:, 0] == 0.0
    paths = {tip: tree.path_up(tip) for tip in tree.tips}
    beside = {tip: [p for p in path if not central[p]] for tip, path in paths.items()}
    lengths = {tip: tree.length(path) for tip, path in paths.items()}
    groups: list[list[int]] = []
    for tip in sorted(paths, key=lambda t: (-lengths[t], t)):
        for group in groups:
            main = group[0]
            shared = set(beside[main])
            own = [p for p in beside[tip] if p not in shared]
            if len(own) < len(beside[tip]) and tree.length(own) < 0.5 * tree.length(beside[tip]):
                group.append(tip)
                break
        else:
            groups.append([tip])
    limbs = []
    for group in groups:
        above = [p for p in paths[group[0]] if central[p] and p != group[0]]
        limbs.append(
            Limb(
                side=int(np.sign(tree.points[group[0], 0])),
                tips=tuple(group),
                fork=above[0] if above else 0,
                paired=False,
                grounded=bool((tree.points[group, 1] < floor + _GROUND * height).any()),
            )
        )
    return _paired(tree, limbs)


def _paired(tree: CurveTree, limbs: list[Limb]) -> list[Limb]:
    """Mark the limbs of both sides that match best, one to one."""
    tips = np.array([tree.points[e.tips[0]] for e in limbs]).reshape(-1, 3)
    mirrored = tips * np.array([-1.0, 1.0, 1.0])
    candidates = sorted(
        (float(np.linalg.norm(tips[a] - mirrored[b])), a, b)
        for a, left in enumerate(limbs)
        for b, right in enumerate(limbs)
        if left.side == 1 and right.side == -1 and left.grounded == right.grounded
    )
    matched: set[int] = set()
    for distance, a, b in candidates:
        if distance <= _PAIRED and a not in matched and b not in matched:
            matched |= {a, b}
    return [replace(e, paired=place in matched) for place, e in enumerate(limbs)]


def _facing(solid: Solid) -> int:
    """Heads are carried high: the front is where the upper quarter of the body is."""
    centres = solid.centres
    low, high = centres[:, 1].min(), centres[:, 1].max()
    upper = centres[:, 1] >= high - 0.25 * (high - low)
    lead = float(centres[upper, 2].mean() - (centres[:, 2].min() + centres[:, 2].max()) / 2)
    return -1 if lead < -0.1 * float(np.ptp(centres[:, 2])) else 1
