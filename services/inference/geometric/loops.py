"""Curves that meet again, as around a handle or a ring: no part of a loop can turn by itself."""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from services.inference.geometric.curve_tree import CurveTree, keep_points
from services.inference.geometric.solid import Bits, Solid
from services.inference.geometric.surface import Indices, Points

# A curve meets another that is nearer to its tip than so many body units and radii, through the
# body, if the way there along the curves is so many times as long.
_NEAR = 0.2
_NEAR_RADII = 2.0
_AROUND = 4.0
_SAMPLES = 24


def without_loops(tree: CurveTree, solid: Solid) -> CurveTree:
    """The tree without the curves of its loops; what goes on from one hangs by a straight link."""
    thick = replace(solid, filled=np.asarray(ndimage.binary_dilation(solid.filled)))
    along = _from_root(tree)
    looped = np.zeros(len(tree.parents), dtype=bool)
    for tip in tree.tips:
        forks = _forks_with(tree, tip)
        gaps = np.linalg.norm(tree.points - tree.points[tip], axis=1)
        ways = along + along[tip] - 2 * along[forks]
        near = _NEAR + _NEAR_RADII * tree.radii[tip]
        candidates = np.flatnonzero((gaps < near) & (ways > np.maximum(_AROUND * gaps, near)))
        for met in candidates[np.argsort(gaps[candidates], kind="stable")]:
            share = np.linspace(0.0, 1.0, _SAMPLES)[:, None]
            line = tree.points[tip] + share * (tree.points[met] - tree.points[tip])
            if thick.holds(line).all():
                around = set(tree.path_up(tip)) ^ set(tree.path_up(int(met)))
                looped[list(around)] = True
                break
    kept = np.zeros(len(tree.parents), dtype=bool)
    kept[0] = True
    for tip in tree.tips:
        if not looped[tip]:
            kept[tree.path_up(tip)] = True
    return keep_points(replace(tree, points=_straightened(tree, looped & kept)), kept)


def _from_root(tree: CurveTree) -> Points:
    """The way along the curves from the root to each point, (N,)."""
    along = np.zeros(len(tree.parents))
    for point, parent in enumerate(tree.parents[1:], start=1):
        step = float(np.linalg.norm(tree.points[point] - tree.points[parent]))
        along[point] = along[parent] + step
    return along


def _forks_with(tree: CurveTree, tip: int) -> Indices:
    """Where each point's way to the root meets that of a tip, (N,)."""
    forks = np.zeros(len(tree.parents), dtype=np.int64)
    own = set(tree.path_up(tip))
    for point, parent in enumerate(tree.parents[1:], start=1):
        forks[point] = point if point in own else forks[parent]
    return forks


def _straightened(tree: CurveTree, looped: Bits) -> Points:
    """The points, those of each looped stretch moved onto the line between its ends."""
    points = tree.points.copy()
    children = tree.children
    for point in np.flatnonzero(looped):
        if any(looped[child] for child in children[point]):
            continue
        stretch = [int(point)]
        while looped[stretch[-1]]:
            stretch.append(int(tree.parents[stretch[-1]]))
        share = np.linspace(0.0, 1.0, len(stretch))[:, None]
        points[stretch] = points[stretch[0]] + share * (points[stretch[-1]] - points[stretch[0]])
    return points
