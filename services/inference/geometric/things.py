"""Skeletons of things: one bone for each straight piece, and one joint where nothing can turn.

What is built stiff has no front or is built square: of straight pieces, parallel or at right
angles, and alike from two sides. A table is a plate on straight legs. What else stands on one foot
or on nothing but legs has its joints at bends and forks; what lies is a snake or a fish.
"""

from functools import partial
from itertools import combinations, pairwise

import numpy as np

from services.inference.geometric.body_plan import BodyPlan, Plan
from services.inference.geometric.chains import chain_skeleton
from services.inference.geometric.curve_tree import CurveTree, keep_points, reroot, travelled
from services.inference.geometric.draft import (
    LONGEST,
    Draft,
    chain_corners,
    divided,
    segment_distances,
)
from services.inference.geometric.loops import without_loops
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Indices, Points
from services.inference.geometric.symmetry import mirror_overlap

Surface = tuple[Points, Indices]

# A straight piece leaves its chord by less than this, body units, or by this share of its length.
_STRAIGHT = 0.04
_STRAIGHT_SHARE = 0.04
# Of a thing that is jointed, where the curves cut the corners.
_NEARLY_STRAIGHT = 0.08
# Branches of stiff things are looked at from so many radii beyond their fork.
_BEYOND_FORK = 2.0
# Shorter ones have no direction, body units.
_SHORTEST_PIECE = 0.15
# A sharp bend turns by so much between stretches of this length on its two sides.
_SHARP = np.cos(np.radians(32.0))
_STRETCH = 0.2
# Pieces are square within 20 degrees.
_SQUARE = np.sin(np.radians(20.0))
# The share of the voxels that have a mirror image, in two planes at least, of a stiff thing.
_ALIKE = 0.75
# The same for the planes x = 0 and z = 0 alone.
_NO_FRONT = 0.86
# Curves end where a ball, by so much larger than what fits into the body there, holds the rest.
_BALL = 1.3
# The legs of a table lean by less than 25 degrees, and are apart by more than so many times the
# radius of what they carry.
_UPRIGHT = np.cos(np.radians(25.0))
_APART = 4.0
# What tongs have beside their arms is shorter than this share of these.
_STUB = 0.25
# What is less high than this share of its width lies, and may be a snake.
_STANDING = 0.6
# A limb is longer than so many radii of what it grows from.
_LIMB = 3.0
# The longest piece of a thing that forks, such as a tree.
_LONGEST_PIECE = 2 * LONGEST


def stiff_skeleton(surface: Surface) -> Draft:
    """One joint in the middle of a thing's surface: many are hollow."""
    corners = surface[0][surface[1]]
    sides = corners[:, 1:] - corners[:, :1]
    areas = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    middle = np.average(corners.mean(axis=1), axis=0, weights=areas + np.finfo(float).tiny)
    draft = Draft()
    draft.add("root", -1, middle, middle + np.array([0.0, LONGEST, 0.0]))
    return draft


def thing_skeleton(tree: CurveTree, plan: BodyPlan, solid: Solid, surface: Surface) -> Draft | None:
    """The joints of a table, of tongs and of what is stiff; None for all else."""
    if _is_table(tree, plan) or not tree.tips:
        return stiff_skeleton(surface)
    if plan.plan is Plan.BIPED and _legs_alone(tree, plan):
        return _jointed(tree, np.inf)
    # People and insects of simple shapes may be as alike.
    if plan.plan not in (Plan.BIPED, Plan.MULTIPED) and _has_no_front(solid):
        return stiff_skeleton(surface)
    if plan.plan is not Plan.GENERIC:
        return None
    tree = without_loops(tree, solid)
    limbs = _without_stubs(tree)
    if not limbs.tips or _is_stiff(tree, solid) or _is_stiff(limbs, solid):
        return stiff_skeleton(surface)
    return None


def jointed_skeleton(tree: CurveTree, plan: BodyPlan, solid: Solid, surface: Surface) -> Draft:
    """The joints of a body without a standard.

    What has legs, or lies as a snake or a fish does, or bends all along has chains. Else there is
    a bone for each straight piece.
    """
    if plan.legs(1):
        return chain_skeleton(_without_stubs(tree))
    tree = without_loops(tree, solid)
    if np.ptp(tree.points[:, 1]) < _STANDING * np.ptp(tree.points[:, [0, 2]], axis=0).max():
        # The root, in the middle of the body, may be beside the trunk's curve.
        fork = next(point for point, below in enumerate(tree.children) if len(below) != 1)
        tree = _without_stubs(reroot(tree, fork))
        return chain_skeleton(tree, chain_corners, partial(_pieces, np.inf))
    ends = [*tree.tips, *([0] if len(tree.children[0]) < 2 else [])]
    lowest = min(ends, key=lambda end: float(tree.points[end, 1]))
    tree = _without_stubs(reroot(tree, lowest))
    if not tree.tips:
        return stiff_skeleton(surface)
    if len(tree.tips) > 1:
        return _jointed(tree, _LONGEST_PIECE)
    if not _of_straight_pieces(_without_ends(tree).points):
        return chain_skeleton(tree)
    return _jointed(tree, np.inf)


def _without_stubs(tree: CurveTree) -> CurveTree:
    """The tree without what is no limb: these stick out by more than what they grow from is thick.

    Those of one fork go together, so that none is left because others went first.
    """
    while True:
        kept = np.ones(len(tree.parents), dtype=bool)
        children = tree.children
        for path in _branches(tree):
            is_twig = not children[path[-1]] and len(children[path[0]]) > (2 if path[0] == 0 else 1)
            if is_twig and tree.length(path) < _LIMB * float(tree.radii[path[0]]):
                kept[path[1:]] = False
        if kept.all():
            return tree
        tree = keep_points(tree, kept)


def _jointed(tree: CurveTree, longest: float) -> Draft:
    """A bone for each piece between forks and sharp bends, or several for one that is longer."""
    pieces = partial(_pieces, longest)
    return chain_skeleton(_without_ends(tree), pieces, pieces)


def _pieces(longest: float, points: Points, forks: list[int]) -> Indices:
    stops = sorted({0, *forks, *_sharp_bends(points), len(points) - 1})
    return divided(points, stops, longest, set(stops))


def _without_ends(tree: CurveTree) -> CurveTree:
    """The tree without what turns to a corner at the end of a thick part."""
    kept = np.ones(len(tree.parents), dtype=bool)
    children = tree.children
    for tip in tree.tips:
        path = tree.path_up(tip)
        forks = [place for place, point in enumerate(path) if place and len(children[point]) > 1]
        path = path[: forks[0]] if forks else path[:-1]
        reach = _BALL * tree.radii[path]
        inside = np.linalg.norm(tree.points[path] - tree.points[tip], axis=1) < reach
        kept[path[: int(np.flatnonzero(inside).max(initial=0))]] = False
    return keep_points(tree, kept)


def _branches(tree: CurveTree) -> list[list[int]]:
    """The paths from the root or a fork down to the next fork or tip."""
    children = tree.children
    paths = []
    for point, below in enumerate(children):
        if point and len(below) == 1:
            continue
        if point:
            path = [point, int(tree.parents[point])]
            while path[-1] and len(children[path[-1]]) == 1:
                path.append(int(tree.parents[path[-1]]))
            paths.append(path[::-1])
    return paths


def _is_straight(points: Points, share: float = _STRAIGHT_SHARE) -> bool:
    length = float(np.linalg.norm(points[-1] - points[0]))
    away = segment_distances(points, points[:1], points[-1:])
    return bool(away.max() < max(_STRAIGHT, share * length))


def _sharp_bends(points: Points) -> list[int]:
    """The points of a curve where it turns sharply, in order."""
    along = travelled(points)
    cosines = np.ones(len(points))
    for place, way in enumerate(along):
        if way < _STRETCH or way > along[-1] - _STRETCH:
            continue
        before = points[place] - points[np.searchsorted(along, way - _STRETCH)]
        after = points[np.searchsorted(along, way + _STRETCH) - 1] - points[place]
        cosines[place] = (
            before @ after / max(float(np.linalg.norm(before) * np.linalg.norm(after)), 1e-12)
        )
    bends: list[int] = []
    while cosines.min() < _SHARP:
        bends.append(int(cosines.argmin()))
        cosines[np.abs(along - along[bends[-1]]) < 2 * _STRETCH] = 1.0
    bends.sort()
    # A kink in a straight piece is no bend.
    for place in list(bends):
        stops = [0, *bends, len(points) - 1]
        before, after = stops[stops.index(place) - 1], stops[stops.index(place) + 1]
        if _is_straight(points[before : after + 1], _NEARLY_STRAIGHT):
            bends.remove(place)
    return bends


def _of_straight_pieces(points: Points) -> bool:
    stops = [0, *_sharp_bends(points), len(points) - 1]
    return all(_is_straight(points[a : b + 1], _NEARLY_STRAIGHT) for a, b in pairwise(stops))


def _is_stiff(tree: CurveTree, solid: Solid) -> bool:
    tree = _without_ends(reroot(tree, tree.tips[0]))
    directions = []
    for path in _branches(tree):
        points = tree.points[path]
        points = points[
            np.linalg.norm(points - points[0], axis=1) >= _BEYOND_FORK * float(tree.radii[path[0]])
        ]
        if len(points) < 2 or np.linalg.norm(points[-1] - points[0]) < _SHORTEST_PIECE:
            continue
        if not _is_straight(points):
            return False
        directions.append((points[-1] - points[0]) / np.linalg.norm(points[-1] - points[0]))
    square = all(
        min(abs(float(a @ b)), float(np.linalg.norm(np.cross(a, b)))) < _SQUARE
        for a, b in combinations(directions, 2)
    )
    return square and _looks_alike(solid)


def _looks_alike(solid: Solid) -> bool:
    """Whether two planes through a thing's middle mirror it."""
    centres = solid.centres
    axes = np.linalg.eigh(np.cov((centres - centres.mean(axis=0)).T))[1].T
    return any(
        sum(mirror_overlap(solid, normal) >= _ALIKE for normal in normals) >= 2
        for normals in (axes, np.eye(3))
    )


def _has_no_front(solid: Solid) -> bool:
    """Whether a thing is alike from before and behind as well as from both sides."""
    return all(mirror_overlap(solid, normal) >= _NO_FRONT for normal in np.eye(3)[[0, 2]])


def _legs_alone(tree: CurveTree, plan: BodyPlan) -> bool:
    """Whether no limb that does not stand is longer than a stub."""
    longest = {True: 0.0, False: 0.0}
    for limb in plan.limbs:
        length = tree.length(tree.path_up(limb.tips[0]))
        longest[limb.grounded] = max(longest[limb.grounded], length)
    return longest[False] < _STUB * longest[True]


def _is_table(tree: CurveTree, plan: BodyPlan) -> bool:
    """Whether something flat stands on straight legs that are wide apart."""
    ends = []
    carried = np.ones(len(tree.parents), dtype=bool)
    for limb in plan.limbs:
        if not limb.grounded:
            continue
        path = tree.path_up(limb.tips[0])
        while not _is_straight(tree.points[path]):
            path = path[:-1]
        leg = tree.points[path[-1]] - tree.points[path[0]]
        if len(path) < 2 or leg[1] < max(_UPRIGHT * float(np.linalg.norm(leg)), _SHORTEST_PIECE):
            return False
        carried[path] = False
        ends.append(tree.points[path[-1]])
    if len(ends) < 2 or not carried.any():
        return False
    nearest = min(float(np.linalg.norm(a - b)) for a, b in combinations(ends, 2))
    return nearest > _APART * float(tree.radii[carried].max())
