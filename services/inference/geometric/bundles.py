"""Curves that run side by side through one sheet or one bulky part: limbs are parted by air.

A fin, a cape or an abdomen has no middle line, and gets a curve for each of its corners.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
from scipy import ndimage
from scipy.sparse import csgraph

from services.inference.geometric.curve_tree import CurveTree, keep_points, travelled
from services.inference.geometric.solid import Bits, Solid
from services.inference.geometric.surface import Indices, Points

# Two curves are looked at from where they part, in so many places each; lines between these that
# lie in the body by this share say that nothing parts the curves.
_PLACES = 4
_FILLED = 0.85
_SAMPLES = 24
# Curves meet again if they end nearer to each other than this share of how far they were apart.
_MEET = 0.5
# Curves that end in about opposite directions are a cross-piece (the cosine between them).
_OPPOSITE = -0.6
# A bundle lies around where it starts, as a lamp's foot does, if the mean of its tips is nearer to
# there than this share of their mean distance.
_AROUND = 0.35
# A bundle of curves all longer than this share of the longest goes to the mean of their tips.
_ALIKE = 0.6


def without_bundles(tree: CurveTree, solid: Solid) -> CurveTree:
    """The tree with one curve for each bundle, and none for what lies around its start."""
    tips = sorted(tree.tips, key=lambda t: (-tree.length(tree.path_up(t)), t))
    paths = [np.array(tree.path_up(tip)[::-1]) for tip in tips]
    together = _together(tree, solid, paths)
    points = tree.points.copy()
    kept = np.zeros(len(tree.parents), dtype=bool)
    kept[0] = True
    open_paths = np.ones(len(paths), dtype=bool)
    _, sheets = csgraph.connected_components(together, directed=False)
    for sheet in range(sheets.max(initial=-1) + 1):
        around = np.flatnonzero(sheets == sheet)
        fork, ends = _fan(tree, [paths[place] for place in around])
        mean = np.linalg.norm(ends.mean(axis=0))
        if (
            len(around) > 1
            and _alike(ends)
            and mean < _AROUND * np.linalg.norm(ends, axis=1).mean()
        ):
            kept[paths[around[0]][: fork + 1]] = True
            open_paths[around] = False
    while open_paths.any():
        main = int(open_paths.argmax())
        bundle = np.flatnonzero(open_paths & together[main])
        open_paths[bundle] = False
        path = paths[main]
        fork, ends = _fan(tree, [paths[place] for place in bundle])
        if len(bundle) > 1 and _alike(ends):
            share = np.linspace(0.0, 1.0, len(path) - fork)[1:, None]
            end = _snapped(ends.mean(axis=0), solid.cell)
            points[path[fork + 1 :]] = points[path[fork]] + share * end
        kept[path] = True
    return keep_points(replace(tree, points=points), kept)


def _fan(tree: CurveTree, paths: list[Indices]) -> tuple[int, Points]:
    """The place on the first of some paths where all part, and their tips from there, (n, 3)."""
    fork = min((_parting(paths[0], path) for path in paths[1:]), default=len(paths[0])) - 1
    tips = [path[-1] for path in paths]
    return fork, tree.points[tips] - tree.points[paths[0][fork]]


def _alike(ends: Points) -> bool:
    lengths = np.linalg.norm(ends, axis=1)
    return bool(lengths.min() > _ALIKE * lengths.max())


def _snapped(end: Points, cell: float) -> Points:
    """Onto the mirror plane if it is nearer than a cell."""
    return np.asarray(end * np.array([float(abs(end[0]) > cell), 1.0, 1.0]))


def _parting(path: Indices, other: Indices) -> int:
    """How many points from the root two paths have in common."""
    common = min(len(path), len(other))
    differ = path[:common] != other[:common]
    return int(differ.argmax()) if differ.any() else common


def _together(tree: CurveTree, solid: Solid, paths: list[Indices]) -> Bits:
    """Whether the body fills what lies between two paths from where they part, (n, n)."""
    together = np.eye(len(paths), dtype=bool)
    along = [travelled(tree.points[path]) for path in paths]
    pairs, ones, others = [], [], []
    for one, other in combinations(range(len(paths)), 2):
        start = _parting(paths[one], paths[other]) - 1
        a, b = (
            tree.points[paths[number][_spread(along[number], start)]] for number in (one, other)
        )
        if min(_cosine(a[-1] - a[n], b[-1] - b[n]) for n in (0, _PLACES // 2)) >= _OPPOSITE:
            pairs.append((one, other))
            ones.append(a[1:])
            others.append(b[1:])
    if not pairs:
        return together
    a, b = np.array(ones), np.array(others)
    between = solid.holds(((a + b) / 2).reshape(-1, 3)).reshape(-1, _PLACES)
    chosen = np.flatnonzero(between.sum(axis=1) >= _PLACES - 1)
    thick = replace(solid, filled=np.asarray(ndimage.binary_dilation(solid.filled)))
    share = np.linspace(0.0, 1.0, _SAMPLES)[:, None, None, None]
    for pair in chosen:
        lines = a[pair, :, None] + share * (b[pair, None] - a[pair, :, None])
        inside = thick.holds(lines.reshape(-1, 3)).reshape(_SAMPLES, -1)
        if (inside.mean(axis=0) < _FILLED).any():
            continue
        one, other = pairs[pair]
        start = _parting(paths[one], paths[other]) - 1
        curves = [
            tree.points[paths[number][_spread(along[number], start, _SAMPLES)]]
            for number in (one, other)
        ]
        if not _window(curves[0], curves[1], solid):
            together[one, other] = together[other, one] = True
    return together


def _window(one: Points, other: Points, solid: Solid) -> bool:
    """Whether there is air between two curves, of as many points, that meet again farther on, as
    legs do whose feet touch."""
    apart = np.linalg.norm(one - other, axis=1)
    between = solid.holds((one + other) / 2)
    return bool(apart[-1] < _MEET * apart.max() and between[-1] and not between.all())


def _cosine(a: Points, b: Points) -> float:
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def _spread(along: Points, start: int, places: int = _PLACES) -> Indices:
    """places + 1 places on a curve from start on, evenly, with both ends; along: (n,)."""
    wanted = along[start] + (along[-1] - along[start]) * np.arange(places + 1) / places
    return np.asarray(np.searchsorted(along, wanted - 1e-9).clip(start, len(along) - 1))
