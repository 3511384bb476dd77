"""What the ends of a curve skeleton are: legs, arms, head, tail."""

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from scipy import ndimage

from services.inference.geometric.curve_tree import CurveTree
from services.inference.geometric.solid import Bits, Solid

# A tip within this share of the height above the floor stands on it.
_GROUND = 0.12
# Limbs of the two sides are a pair if one tip is this near to the other's mirror image, in lengths
# of the shorter and at most in body units, and if that is this share of the longer.
# Along x the distance counts less.
_POSED = 0.85
_PAIRED = 0.6
_LIKE = 0.7
_SWUNG = 0.3
# Bodies lower than this share of their width may have raised legs: limbs at least this long beside
# the longest leg, from about the same height of the trunk (as a share of the body's height).
_LOW = 0.7
_AS_LONG = 0.5
_SAME_HEIGHT = 0.2
# Wings are at least this long, body units, and this many times as deep as thick.
_SHORTEST_WING = 0.35
_FLAT = 2.0
# Where along a limb its sections tell a wing from an arm.
_WING = (0.3, 0.8)


class Plan(Enum):
    BIPED = "biped"
    BIRD = "bird"
    QUADRUPED = "quadruped"
    MULTIPED = "multiped"
    GENERIC = "generic"


@dataclass(frozen=True)
class Limb:
    """One end of the body. side: 1 for x > 0, -1 for x < 0, 0 for the trunk's own ends.

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
    """limbs: every end of the tree. facing: +1 or -1, the direction of the front along z.

    central: (N,) which points of the tree are the trunk's, from which limbs grow on both sides.
    wings: the limbs of a bird's wings.
    """

    plan: Plan
    limbs: tuple[Limb, ...]
    facing: int
    central: Bits
    wings: tuple[Limb, ...] = ()

    def legs(self, side: int) -> list[Limb]:
        """The limbs of a side that stand on the floor and have their like on the other side."""
        return [e for e in self.limbs if e.side == side and e.grounded and e.paired]


def body_plan(tree: CurveTree, solid: Solid, symmetric: bool) -> BodyPlan:
    """Read the plan of a body from where its tips are: ground contacts, sides, heights.

    symmetric: whether the curves of both sides mirror each other and the trunk's are at x = 0.
    """
    centres = solid.centres
    floor, height = float(centres[:, 1].min()), float(np.ptp(centres[:, 1]))
    if symmetric:
        central = tree.points[:, 0] == 0.0
        sides = [[t for t in tree.tips if side * tree.points[t, 0] > 0.0] for side in (1, -1)]
        pairs = _pairs(tree, *sides)
    else:
        pairs = _pairs(tree, tree.tips, tree.tips)
        central = _between(tree, pairs)
    limbs = _limbs(tree, central, pairs, floor + _GROUND * height)
    wings = _wings(tree, limbs, solid)
    if wings:
        limbs = [replace(e, grounded=False) if e in wings else e for e in limbs]
        wings = tuple(replace(e, grounded=False) for e in wings)
    elif height < _LOW * float(np.ptp(centres[:, 0])):
        limbs = _raised_legs(tree, limbs, height)
    if not wings:
        limbs = _legs_in_the_air(tree, limbs)
    legs = [e for e in limbs if e.grounded and e.paired]
    plan = {0: Plan.GENERIC, 2: Plan.BIPED, 4: Plan.QUADRUPED}.get(len(legs), Plan.MULTIPED)
    if len(legs) < 4 and wings and _stands(tree, limbs):
        plan = Plan.BIRD
    elif plan is Plan.BIPED and not symmetric:
        plan = Plan.GENERIC
    if plan is not Plan.BIRD:
        wings = ()
    return BodyPlan(plan, tuple(limbs), _facing(solid), central, wings)


def _between(tree: CurveTree, pairs: list[tuple[int, int]]) -> Bits:
    """The trunk of a body whose sides stand differently: what leads to the forks of its pairs of
    limbs, and to ends that are neither one of a pair nor part of such a limb."""
    paths = {tip: tree.path_up(tip) for tip in tree.tips}
    central = np.zeros(len(tree.parents), dtype=bool)
    central[0] = True
    for left, right in pairs:
        central[list(set(paths[left]) & set(paths[right]))] = True
    limbs = {p for pair in pairs for tip in pair for p in paths[tip] if not central[p]}
    matched = {tip for pair in pairs for tip in pair}
    for tip, path in paths.items():
        beside = [p for p in path if not central[p]]
        own = [p for p in beside if p not in limbs]
        if tip not in matched and tree.length(own) > 0.5 * tree.length(beside):
            central[path] = True
    return central


def _limbs(
    tree: CurveTree, central: Bits, pairs: list[tuple[int, int]], ground: float
) -> list[Limb]:
    """Group the tips: those that part only near their ends, as toes do, are one limb.

    If one of a pair stands, so does the other.
    """
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
        tip = group[0]
        above = [p for p in paths[tip] if central[p] and p != tip]
        fork = above[0] if above else 0
        limbs.append(
            Limb(
                side=0
                if central[tip]
                else int(np.sign(tree.points[tip, 0] - tree.points[fork, 0])),
                tips=tuple(group),
                fork=fork,
                paired=False,
                grounded=bool((tree.points[group, 1] < ground).any()),
            )
        )
    group_of = {tip: number for number, group in enumerate(groups) for tip in group}
    for pair in pairs:
        numbers = [group_of[tip] for tip in pair]
        if numbers[0] == numbers[1] or any(limbs[number].paired for number in numbers):
            continue
        grounded = any(limbs[number].grounded for number in numbers)
        for number, side in zip(numbers, (1, -1), strict=True):
            limbs[number] = replace(limbs[number], side=side, grounded=grounded, paired=True)
    return limbs


def _pairs(tree: CurveTree, left: list[int], right: list[int]) -> list[tuple[int, int]]:
    """The tips of both sides that are nearest to each other's mirror image, one to one.

    Both limbs are about as long. A pose takes long ones farther apart, and may swing both to one
    side.
    """
    paths = {tip: tree.path_up(tip) for tip in (*left, *right)}
    candidates = []
    for a in left:
        for b in right:
            if tree.points[a, 0] <= tree.points[b, 0]:
                continue
            shared = set(paths[a]) & set(paths[b])
            short, long = sorted(
                tree.length([point for point in paths[tip] if point not in shared])
                for tip in (a, b)
            )
            apart = tree.points[a] - tree.points[b] * np.array([-1.0, 1.0, 1.0])
            distance = float(np.linalg.norm(apart * np.array([_SWUNG, 1.0, 1.0])))
            if short > _LIKE * long and distance < min(_PAIRED, _POSED * short):
                candidates.append((distance, a, b))
    matched: set[int] = set()
    pairs = []
    for _, a, b in sorted(candidates):
        if a not in matched and b not in matched:
            matched |= {a, b}
            pairs.append((a, b))
    return pairs


def _raised_legs(tree: CurveTree, limbs: list[Limb], height: float) -> list[Limb]:
    """The limbs with those counted as standing that are like the legs of a body with three pairs
    or more: about as long, from the same height, and not above the trunk."""
    legs = [e for e in limbs if e.grounded and e.paired]
    if not legs:
        return limbs
    level = float(np.mean([tree.points[e.fork, 1] for e in legs]))
    longest = max(limb_length(tree, e) for e in legs)
    like = [
        e
        for e in limbs
        if e.paired
        and limb_length(tree, e) > _AS_LONG * longest
        and abs(tree.points[e.fork, 1] - level) < _SAME_HEIGHT * height
        and tree.points[e.tips[0], 1] < tree.points[e.fork, 1] + tree.radii[e.fork]
    ]
    if len(like) < 6:
        return limbs
    return [replace(e, grounded=True) if e in like else e for e in limbs]


def _legs_in_the_air(tree: CurveTree, limbs: list[Limb]) -> list[Limb]:
    """The limbs with those counted as standing that hang down like the one pair that stands, from
    before or behind it rather than above: a lifted pair of an animal's legs, not arms."""
    legs = [e for e in limbs if e.grounded and e.paired]
    if len(legs) != 2:
        return limbs
    start = np.mean([tree.points[e.fork] for e in legs], axis=0)
    longest = max(limb_length(tree, e) for e in legs)
    hanging = []
    for limb in limbs:
        fork, tip = tree.points[limb.fork], tree.points[limb.tips[0]]
        aside = abs(fork - start)
        if (
            limb.paired
            and limb_length(tree, limb) > _AS_LONG * longest
            and aside[2] > aside[1]
            and fork[1] - tip[1] > np.hypot(*(fork - tip)[[0, 2]])
        ):
            hanging.append(limb)
    return [replace(e, grounded=True) if e in hanging else e for e in limbs]


def limb_path(tree: CurveTree, limb: Limb) -> list[int]:
    """The points from a limb's main tip to its fork."""
    path = tree.path_up(limb.tips[0])
    return path[: path.index(limb.fork) + 1]


def limb_length(tree: CurveTree, limb: Limb) -> float:
    return tree.length(limb_path(tree, limb))


def _stands(tree: CurveTree, limbs: list[Limb]) -> bool:
    """Whether at least one limb goes from the middle of the body down to the floor."""
    ways = [tree.points[0] - tree.points[limb.tips[0]] for limb in limbs if limb.grounded]
    return any(way[1] > np.hypot(way[0], way[2]) for way in ways)


def _wings(tree: CurveTree, limbs: list[Limb], solid: Solid) -> tuple[Limb, ...]:
    """The longest pair of limbs that goes sideways more than down, if it is flat as arms are not.

    Wings that hang may reach the floor.
    """
    aloft = []
    for e in limbs:
        way = np.abs(tree.points[e.tips[0]] - tree.points[e.fork])
        if e.paired and (not e.grounded or way[0] > way[1]):
            aloft.append(e)
    pair = sorted(aloft, key=lambda e: -limb_length(tree, e))[:2]
    if len(pair) < 2 or min(limb_length(tree, e) for e in pair) < _SHORTEST_WING:
        return ()
    return tuple(pair) if all(_is_flat(tree, e, solid) for e in pair) else ()


def _is_flat(tree: CurveTree, limb: Limb, solid: Solid) -> bool:
    """Whether a limb's sections are much deeper along z than they are thick: sections across x,
    or level ones of a limb that hangs."""
    path = limb_path(tree, limb)[::-1]
    way = np.abs(tree.points[path[-1]] - tree.points[path[0]])
    across = 0 if way[0] > way[1] else 1
    inner, outer = (path[int(share * (len(path) - 1))] for share in _WING)
    ratios = []
    for point in path[path.index(inner) : path.index(outer) + 1]:
        cell = solid.cells_of(tree.points[point][None])[0]
        labels, _ = ndimage.label(solid.filled.take(cell[across], axis=across))
        label = labels[cell[1 - across], cell[2]]
        if label:
            thickness = (labels == label).sum(axis=0)
            ratios.append(float((thickness > 0).sum() / thickness[thickness > 0].mean()))
    return bool(ratios) and float(np.median(ratios)) > _FLAT


def _facing(solid: Solid) -> int:
    """Heads are carried high: the front is where the upper quarter of the body is."""
    centres = solid.centres
    low, high = centres[:, 1].min(), centres[:, 1].max()
    upper = centres[:, 1] >= high - 0.25 * (high - low)
    lead = float(centres[upper, 2].mean() - (centres[:, 2].min() + centres[:, 2].max()) / 2)
    return -1 if lead < -0.1 * float(np.ptp(centres[:, 2])) else 1
