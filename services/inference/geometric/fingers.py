"""The fingers of a hand, found in voxels fine enough to tell them apart."""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from services.inference.geometric.close_up import filled, surface_cells
from services.inference.geometric.curve_tree import CurveTree, prune, smooth, travelled
from services.inference.geometric.solid import Bits, Solid
from services.inference.geometric.surface import Indices, Points
from services.inference.geometric.teasar import curve_skeleton

# Cells along a hand. Its surroundings go from BACK to REACH along it and ASIDE around it, in hands:
# where the wrist is taken to be is uncertain.
_RESOLUTION = 48
_BACK = -0.8
_REACH = 1.3
_ASIDE = 1.2
# There is more than one sheet if further ones fill this share of the inside.
_SHEETS = 0.03
# Fewer are a mitten, a hoof or a fist; more are no hand.
_FEWEST = 3
_MOST = 5
# A finger is at least this long, in hands and in its own radii. It ends where it becomes
# EXPLODES times as thick as it usually is.
_SHORTEST = 0.2
_SLENDER = 4.0
_EXPLODES = 1.8


def find_fingers(vertices: Points, faces: Indices, wrist: Points, tip: Points) -> list[Points]:
    """Curves (n, 3) from knuckle to tip: the thumb's, then its neighbours' in order.

    wrist, tip: where the hand begins and ends. Empty where no fingers can be told apart.
    """
    length = float(np.linalg.norm(tip - wrist))
    turn = _basis((tip - wrist) / length)
    for hand in _hands((vertices - wrist) @ turn.T / length, faces):
        tree = curve_skeleton(hand, False, lambda _: None)
        tree = smooth(prune(tree, 2.5, 0.08), 4)
        curves = [c for end in tree.tips if (c := _finger(tree, end)) is not None]
        if _FEWEST <= len(curves) <= _MOST:
            return [wrist + length * curve @ turn for curve in _from_the_thumb(curves)]
    return []


def _basis(along: Points) -> Points:
    """A rotation (3, 3) that turns a direction to +x."""
    across = np.cross(along, np.eye(3)[np.abs(along).argmin()])
    across /= np.linalg.norm(across)
    return np.array([along, across, np.cross(along, across)])


def _hands(vertices: Points, faces: Indices) -> Iterator[Solid]:
    """What may be the hand along +x: all inside the surface, then the largest piece between its
    sheets, since a sleeve may hide the hand.

    The outermost cells are left out, which would join fingers that nearly touch.
    """
    cell = 1.0 / _RESOLUTION
    low, high = np.array([_BACK, -_ASIDE, -_ASIDE]), np.array([_REACH, _ASIDE, _ASIDE])
    surface = surface_cells(vertices, faces, low, high, cell)
    if surface is None:
        return
    solid = filled(surface, [(0, 0)])
    inside = ndimage.binary_erosion(solid, border_value=1)
    deep = ndimage.binary_erosion(inside, border_value=1)
    pieces = [inside]
    if (deep & surface).sum() > _SHEETS * inside.sum():
        pieces.append(solid & ~surface)
    for piece in pieces:
        labels, _ = ndimage.label(piece)
        sizes = np.bincount(labels[int(-_BACK / cell) :].ravel())
        sizes[0] = 0
        if sizes.any():
            yield _cropped(labels == sizes.argmax(), low, cell)


def _cropped(filled: Bits, low: Points, cell: float) -> Solid:
    """The filled cells and one around them, where the grid goes on: most of the box is air."""
    [found] = ndimage.find_objects(filled.astype(np.int8))
    around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in found)
    return Solid(filled[around], low + cell * np.array([side.start for side in around]), cell)


def _finger(tree: CurveTree, end: int) -> Points | None:
    """The slender end of a path, from where it leaves the palm to its tip, or None."""
    children = tree.children
    path = tree.path_up(end)
    points, radii = tree.points[path], tree.radii[path]
    along = travelled(points)
    usual = float(np.median(radii[(along > 0.25 * _SHORTEST) & (along < 1.5 * _SHORTEST)]))
    forks = np.array([len(children[point]) > 1 for point in path])
    ends = np.flatnonzero(forks | ((along > _SHORTEST / 2) & (radii > _EXPLODES * usual)))
    last = int(ends[0]) if len(ends) else len(path) - 1
    if along[last] < max(_SHORTEST, _SLENDER * usual) or points[0, 0] < points[last, 0]:
        return None
    return points[last::-1]


def _from_the_thumb(curves: list[Points]) -> list[Points]:
    """Ordered across the hand, from the outer finger that keeps farther away from the next."""
    tips = np.array([curve[-1] for curve in curves])
    aside = tips[:, 1:] - tips[:, 1:].mean(axis=0)
    order = (aside @ np.linalg.svd(aside)[2][0]).argsort(kind="stable")
    gaps = np.linalg.norm(np.diff(tips[order], axis=0), axis=1)
    if gaps[0] < gaps[-1]:
        order = order[::-1]
    return [curves[place] for place in order]
