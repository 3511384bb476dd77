"""The trunk of an animal on four legs: legs hang straight down from a spine along the back.

Medial curves sag into chest and belly, and run from the legs slantwise to the middle of the body.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from services.inference.geometric.body_plan import BodyPlan, Limb, limb_path
from services.inference.geometric.curve_tree import CurveTree, keep_points, reroot, travelled
from services.inference.geometric.humanoid_limbs import bare_leg
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Points

# The height of the spine between belly and back, and of a leg's first joint between where the
# leg ends and the spine.
_SPINE = 0.6
_FIRST_JOINT = 0.8
# Above shoulders and hips the back cannot be told from neck and tail: the spine's height is taken
# from between these shares of the way.
_BACK = (0.15, 0.85)
# Beyond the legs the spine returns to the medial curve within this distance, body units.
_RETURN = 0.3
# Front and hind legs are at least this far apart, body units.
_SHORTEST_BACK = 0.2
# A leg sprawls if its tip is farther from the mirror plane than this share of its height.
_SPRAWL = 0.6


@dataclass(frozen=True)
class _LegEnd:
    """point: the first of a leg's curve inside the trunk. top: (3,) the leg's middle below it."""

    point: int
    top: Points


def straightened(tree: CurveTree, plan: BodyPlan, solid: Solid) -> CurveTree:
    """The curves of an animal with each leg hung from the spine above it, and the spine along the
    back, rooted above the hind legs. Curves that end in the belly are left out.

    Where a leg sprawls, or cannot be told from the trunk, the tree is returned as it is.
    """
    legs = [leg for side in (1, -1) for leg in plan.legs(side)]
    ends = [end for leg in legs if (end := _leg_end(tree, leg, solid))]
    if len(ends) < len(legs):
        return tree
    depths = sorted((float(end.top[2]) for end in ends), key=lambda z: plan.facing * z)
    hind, front = depths[0], depths[-1]
    if abs(front - hind) < _SHORTEST_BACK:
        return tree
    tips = tree.tips
    tree, trunk = _with_trunk(tree, plan, hind)
    points, parents = tree.points.copy(), tree.parents.copy()
    points[trunk, 1] += _rise(points[trunk], solid, hind, front)
    way = (points[trunk, 2] - hind) / (front - hind)
    spine = [p for p, share in zip(trunk, way, strict=True) if 0.0 <= share <= 1.0] or trunk
    for end in ends:
        above = spine[int(np.abs(points[spine, 2] - end.top[2]).argmin())]
        points[end.point] = end.top
        points[end.point, 1] += _FIRST_JOINT * max(0.0, float(points[above, 1] - end.top[1]))
        parents[end.point] = above
    hung = CurveTree(points, tree.radii, parents)
    root = hung.path_up(min(ends, key=lambda e: plan.facing * e.top[2]).point)[1]
    ahead = plan.facing * (points[tips, 2] - hind) / abs(front - hind)
    belly = plan.central[tips] & (ahead > 0.0) & (ahead < 1.0)
    belly &= points[tips, 1] < points[root, 1]
    return _leading_to(points[tips][~belly], reroot(hung, root))


def _leading_to(ends: Points, tree: CurveTree) -> CurveTree:
    """The tree without what leads to none of the tips at ends (n, 3)."""
    places = {tuple(end) for end in ends.tolist()}
    kept = np.zeros(len(tree.parents), dtype=bool)
    for tip in tree.tips:
        if tuple(tree.points[tip].tolist()) in places:
            kept[tree.path_up(tip)] = True
    return keep_points(tree, kept)


def _leg_end(tree: CurveTree, leg: Limb, solid: Solid) -> _LegEnd | None:
    path = limb_path(tree, leg)[:-1]
    outwards = tree.points[path] * np.array([leg.side, 1.0, 1.0])
    own_side = Solid(solid.filled[:: leg.side], solid.origin, solid.cell)
    bare = bare_leg(own_side, outwards)
    if bare is None:
        return None
    inside = np.flatnonzero(outwards[:, 1] >= bare.crotch)
    place = int(inside[0]) if len(inside) else len(path) - 1
    top = bare.sections[-1].centre
    drop = float(tree.points[leg.fork, 1] - outwards[0, 1])
    if place == 0 or outwards[0, 0] > _SPRAWL * drop:
        return None
    return _LegEnd(path[place], top * np.array([leg.side, 1.0, 1.0]))


def _with_trunk(tree: CurveTree, plan: BodyPlan, hind: float) -> tuple[CurveTree, list[int]]:
    """The tree and its points from the hindmost of the trunk to the foremost; where those end
    before the hind legs, one more is added above them."""
    central = np.flatnonzero(plan.central)
    lead = plan.facing * tree.points[central, 2]
    back = tree.path_up(int(central[lead.argmin()]))
    fore = tree.path_up(int(central[lead.argmax()]))
    shared = next(point for point in back if point in set(fore))
    trunk = [*back[: back.index(shared) + 1], *reversed(fore[: fore.index(shared)])]
    if plan.facing * (tree.points[trunk[0], 2] - hind) <= 0.0:
        return tree, trunk
    end = np.array([*tree.points[trunk[0], :2], hind])
    longer = CurveTree(
        points=np.vstack([tree.points, end]),
        radii=np.append(tree.radii, tree.radii[trunk[0]]),
        parents=np.append(tree.parents, trunk[0]),
    )
    return longer, [len(tree.parents), *trunk]


def _rise(trunk: Points, solid: Solid, hind: float, front: float) -> Points:
    """How much higher than a trunk's points (n, 3) the spine is, (n,)."""
    way = (trunk[:, 2] - hind) / (front - hind)
    spine = (way >= 0.0) & (way <= 1.0)
    rise = np.zeros(len(trunk))
    if not spine.any():
        return rise
    first, last = np.flatnonzero(spine)[[0, -1]]
    between = slice(first, last + 1)
    depths = hind + np.clip(way[between], *_BACK) * (front - hind)
    heights = [_spine_height(solid, np.array([*_at_depth(trunk[between], z), z])) for z in depths]
    rise[between] = ndimage.uniform_filter1d(heights, 5, mode="nearest") - trunk[between, 1]
    along = travelled(trunk)
    beyond = np.maximum(along[first] - along, along - along[last]).clip(0.0)
    nearest = np.clip(np.arange(len(trunk)), first, last)
    return np.asarray(rise[nearest] * (1.0 - beyond / _RETURN).clip(0.0))


def _at_depth(points: Points, z: float) -> list[float]:
    """x and y of a curve (n, 3) at a depth."""
    order = points[:, 2].argsort()
    return [float(np.interp(z, points[order, 2], points[order, axis])) for axis in (0, 1)]


def _spine_height(solid: Solid, point: Points) -> float:
    """Where the spine is in the column of the solid that holds a point, or is nearest to it."""
    i, j, k = (int(v) for v in solid.cells_of(point[None])[0])
    runs, _ = ndimage.label(solid.filled[i, :, k])
    filled = np.flatnonzero(runs)
    if not len(filled):
        return float(point[1])
    run = np.flatnonzero(runs == runs[filled[np.abs(filled - j).argmin()]])
    return float(solid.origin[1] + solid.cell * (run[0] + _SPINE * (run[-1] - run[0])))
