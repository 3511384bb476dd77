"""The ears of an animal's head, found in voxels fine enough to tell them apart."""

from itertools import combinations

import numpy as np
from scipy import ndimage

from services.inference.geometric.close_up import filled, surface_cells
from services.inference.geometric.curve_tree import CurveTree, prune, smooth, travelled
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Indices, Points
from services.inference.geometric.teasar import curve_skeleton

# Cells along a head from nape to snout, and the box around it, in heads. What ends within MARGIN of
# the box was cut off by it, as the neck is.
_RESOLUTION = 36
_LOW = np.array([-0.5, -0.9, -0.9])
_HIGH = np.array([1.1, 0.9, 0.9])
_MARGIN = 0.05
# Ears grow from the upper side of the head, nearer to the nape than this.
_ROOTS = 0.6
# An ear is at least this long, in heads and in its own radii. It ends where it becomes EXPLODES
# times as thick as it usually is.
_SHORTEST = 0.15
_SLENDER = 3.0
_EXPLODES = 1.8
# Ears point away from each other, and the tip of one is this near to the mirror image of the
# other's, in their lengths.
_ALIKE = 0.5


def find_ears(vertices: Points, faces: Indices, nape: Points, snout: Points) -> tuple[Points, ...]:
    """Curves (n, 3) from root to tip: of the ear with the greater x and of the other.

    Of several pairs, such as horns, the one that is farthest apart. Empty where there is none.
    """
    length = float(np.linalg.norm(snout - nape))
    turn = _basis((snout - nape) / length)
    head = _head((vertices - nape) @ turn.T / length, faces)
    if head is None:
        return ()
    tree = curve_skeleton(head, False, lambda _: None)
    tree = smooth(prune(tree, 1.75, 0.08), 4)
    curves = [c for end in tree.tips if (c := _ear(tree, end)) is not None]
    pairs = [pair for pair in combinations(curves, 2) if _are_alike(*pair)]
    if not pairs:
        return ()
    pair = max(pairs, key=lambda p: abs(float(p[0][-1, 2] - p[1][-1, 2])))
    ears = [nape + length * curve @ turn for curve in pair]
    return tuple(sorted(ears, key=lambda ear: -float(ear[-1, 0])))


def _basis(along: Points) -> Points:
    """A rotation (3, 3) that turns a direction to +x and what is across it and level to z."""
    across = np.array([-along[2], 0.0, along[0]])
    across /= max(float(np.linalg.norm(across)), 1e-9)
    return np.array([along, np.cross(across, along), across])


def _head(vertices: Points, faces: Indices) -> Solid | None:
    """The head along +x, with what of the neck is around it."""
    cell = 1.0 / _RESOLUTION
    surface = surface_cells(vertices, faces, _LOW, _HIGH, cell)
    if surface is None:
        return None
    solid = filled(surface, [(axis, end) for axis in range(3) for end in (0, -1)])
    labels, _ = ndimage.label(solid, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return Solid(labels == sizes.argmax(), _LOW, cell) if sizes.any() else None


def _ear(tree: CurveTree, end: int) -> Points | None:
    """The slender end of a path, from where it leaves the head to its tip, or None."""
    children = tree.children
    path = tree.path_up(end)
    points, radii = tree.points[path], tree.radii[path]
    along = travelled(points)
    usual = float(np.median(radii[along < 1.5 * _SHORTEST]))
    forks = np.array([len(children[point]) > 1 for point in path])
    ends = np.flatnonzero(forks | ((along > _SHORTEST / 2) & (radii > _EXPLODES * usual)))
    last = int(ends[0]) if len(ends) else len(path) - 1
    cut = (points[0] < _LOW + _MARGIN).any() or (points[0] > _HIGH - _MARGIN).any()
    behind = points[last, 0] < _ROOTS and points[last, 1] > 0.0
    if cut or not behind or along[last] < max(_SHORTEST, _SLENDER * usual):
        return None
    return points[last::-1]


def _are_alike(one: Points, other: Points) -> bool:
    """Whether two ears point to their sides and mirror each other in the head's plane z = 0."""
    apart = other[-1] * np.array([1.0, 1.0, -1.0]) - one[-1]
    length = min(float(np.linalg.norm(ear[-1] - ear[0])) for ear in (one, other))
    aside = all(abs(ear[-1, 2]) > abs(ear[0, 2]) for ear in (one, other))
    opposite = one[-1, 2] * other[-1, 2] < 0.0
    return bool(aside and opposite and np.linalg.norm(apart) < _ALIKE * length)
