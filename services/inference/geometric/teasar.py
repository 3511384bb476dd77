"""Curve skeletons of solid voxels by TEASAR (Sato et al. 2000), on one half of a mirrored body."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from services.inference.geometric.curve_tree import CurveTree
from services.inference.geometric.solid import Bits, Solid
from services.inference.geometric.surface import Indices, Points
from services.inference.geometric.voxel_graph import voxel_graph

# A path uses up the voxels within SCALE radii and CONSTANT body units of it.
_SCALE = 1.3
_CONSTANT = 0.12
# How strongly paths keep to the middle: the cost of a step is its length over depth^CENTRING.
# Depth is the radius; how crowded the cells around are (a box of CROWD) makes a middle for sheets
# too, whose radius is the same all over.
_CENTRING = 3.0
_CROWD = 7
_SHEET = 0.3
# Curves that leave the mirror plane by no more than this stay on it, body units.
_CORNER = 0.1
# A limb may be on the mirror plane again for this share of its points, and must have so much of the
# rest on both sides.
_CONTACT = 0.75
_SURELY = 0.9
# Loose parts with a smaller share of the voxels get no curve.
_SMALLEST_PART = 0.002
_MAX_PATHS = 60


def fold(solid: Solid) -> Solid:
    """The solid united with its mirror image."""
    return Solid(solid.filled | solid.filled[::-1], solid.origin, solid.cell)


def curve_skeleton(solid: Solid, folded: bool, progress: Callable[[float], None]) -> CurveTree:
    """The medial curves of a solid, rooted near its centre of mass.

    If folded, the solid must be its own mirror image: only the half x >= 0 gets curves, and
    those that follow the mirror plane lie on it exactly.
    """
    distances = ndimage.distance_transform_edt(solid.filled)
    filled = solid.filled
    if folded:
        middle = filled.shape[0] // 2
        filled = filled.copy()
        filled[:middle] = False
    filled = _without_crumbs(filled)
    cells = np.argwhere(filled)
    points = solid.origin + cells * solid.cell
    radii = (distances[tuple(cells.T)] - 0.5) * solid.cell
    lengths = voxel_graph(filled, solid.cell)
    crowd = ndimage.uniform_filter(solid.filled.astype(np.float32), _CROWD)[tuple(cells.T)]
    root = _root(solid, points, radii, folded)
    tree = _trace(points, radii, lengths, radii * (_SHEET + crowd), root, progress)
    return _on_mirror_plane(tree, solid.cell) if folded else tree


def _without_crumbs(filled: Bits) -> Bits:
    labels, pieces = ndimage.label(filled, np.ones((3, 3, 3)))
    if pieces == 1:
        return filled
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = sizes >= max(_SMALLEST_PART * sizes.sum(), 2)
    large[sizes.argmax()] = True
    return np.asarray(large[labels])


def _root(solid: Solid, points: Points, radii: Points, folded: bool) -> int:
    """The voxel that is deep inside and near the centre of mass; on the mirror plane if any."""
    distance = np.linalg.norm(points - solid.centres.mean(axis=0), axis=1) - radii
    if folded:
        distance = distance + 10.0 * (points[:, 0] > solid.cell / 2)
    return int(distance.argmin())


def _trace(
    points: Points,
    radii: Points,
    lengths: sparse.csr_array,
    depths: Points,
    root: int,
    progress: Callable[[float], None],
) -> CurveTree:
    """Paths to ever nearer tips; steps are cheap where depths (n,) are large."""
    start, end = lengths.nonzero()
    middle_depths = (depths[start] + depths[end]) / 2
    costs = sparse.csr_array(
        (lengths.data / middle_depths**_CENTRING, lengths.indices, lengths.indptr),
        shape=lengths.shape,
    )
    _, towards_root = csgraph.dijkstra(costs, indices=root, return_predecessors=True)
    from_root = csgraph.dijkstra(lengths, indices=root)

    order = {root: 0}
    parents = [-1]
    open_voxels = np.ones(len(points), dtype=bool)
    _use_up(open_voxels, [root], radii, lengths)
    for _ in range(_MAX_PATHS):
        if not open_voxels.any():
            break
        progress(1.0 - float(open_voxels.mean()))
        tip = int(np.where(open_voxels, from_root, -1.0).argmax())
        path = [tip]
        while int(towards_root[path[-1]]) not in order:
            path.append(int(towards_root[path[-1]]))
        parent = order[int(towards_root[path[-1]])]
        for voxel in reversed(path):
            parents.append(parent)
            parent = order[voxel] = len(order)
        _use_up(open_voxels, path, radii, lengths)
    voxels = np.array(list(order))
    return CurveTree(points[voxels], radii[voxels], np.array(parents))


def _use_up(open_voxels: Bits, path: list[int], radii: Points, lengths: sparse.csr_array) -> None:
    """Close the voxels that a path explains: near it, measured through the solid."""
    reach = _SCALE * radii + _CONSTANT
    distances, _, sources = csgraph.dijkstra(
        lengths,
        indices=path,
        limit=float(reach[path].max()),
        min_only=True,
        return_predecessors=True,
    )
    reached = np.isfinite(distances)
    open_voxels[reached] &= distances[reached] > reach[sources[reached]]
    open_voxels[path] = False


def _on_mirror_plane(tree: CurveTree, cell: float) -> CurveTree:
    """Move the points that follow the mirror plane onto it: near it, and all above them too.

    What leads to a single curve beside the plane, and nowhere else, belongs to that curve: it
    leaves the plane evenly from where it forks off. Ends that leave the plane only to reach a
    corner of the body lie on it.
    """
    near = tree.points[:, 0] <= np.maximum(1.5 * cell, 0.5 * tree.radii)
    for point, parent in enumerate(tree.parents):
        if parent >= 0:
            near[point] &= near[parent]
    for tip in tree.tips:
        end = [point for point in tree.path_up(tip) if not near[point]]
        if tree.length(end) < _CORNER and tree.points[tip, 0] < _CORNER:
            near[end] = True
    points = tree.points.copy()
    points[near, 0] = 0.0
    children = tree.children
    for point, parent in enumerate(tree.parents):
        if parent < 0 or near[point] or not near[parent]:
            continue
        stub = [point]
        while (above := int(tree.parents[stub[-1]])) > 0 and len(children[above]) == 1:
            stub.append(above)
        points[stub, 0] = np.linspace(tree.points[point, 0], 0.0, len(stub), endpoint=False)
    return CurveTree(points, tree.radii, tree.parents)


def unfold(tree: CurveTree, solid: Solid, present: float = 0.6) -> CurveTree:
    """Give each curve beside the mirror plane to the side, or the sides, where the solid has it.

    tree: the curves of one half (x >= 0). solid: the body as it is, not folded.
    present: the share of a curve's points that must lie in the solid on a side to exist there.
    """
    thick = Solid(np.asarray(ndimage.binary_dilation(solid.filled)), solid.origin, solid.cell)
    tree = _with_contacts_apart(tree, thick)
    central = tree.points[:, 0] == 0.0
    sides: dict[int, Bits] = {}
    for side in (1, -1):
        mirrored = tree.points * np.array([side, 1.0, 1.0])
        inside = thick.holds(mirrored)
        kept = central.copy()
        for tip in tree.tips:
            beside = [p for p in tree.path_up(tip) if not central[p]]
            if beside and inside[beside].mean() >= present:
                kept[beside] = True
        sides[side] = kept
    points: list[Points] = []
    radii: list[float] = []
    parents: list[int] = []
    copies: Indices = np.full((len(tree.parents), 2), -1)
    for point, parent in enumerate(tree.parents):
        for column, side in enumerate((1,) if central[point] else (1, -1)):
            if not sides[side][point]:
                continue
            above = -1 if parent < 0 else int(copies[parent, column])
            if above < 0 <= parent:  # a curve of one side that comes back to the plane
                above = int(copies[parent].max())
                if above < 0:
                    continue
            copies[point, column] = len(points)
            points.append(tree.points[point] * np.array([side, 1.0, 1.0]))
            radii.append(float(tree.radii[point]))
            parents.append(above)
        if central[point]:
            copies[point, 1] = copies[point, 0]
    return CurveTree(np.array(points), np.array(radii), np.array(parents))


def _with_contacts_apart(tree: CurveTree, thick: Solid) -> CurveTree:
    """The curves of one half, those of two limbs that touch on the mirror plane moved off it.

    They are limbs of both sides if thick, the body as it is, has them there, and if most of their
    way is not on the plane.
    """
    left = tree.points[:, 0] > 0.0
    for point, parent in enumerate(tree.parents):
        left[point] |= parent >= 0 and left[parent]
    inside = [thick.holds(tree.points * np.array([side, 1.0, 1.0])) for side in (1, -1)]
    points = tree.points.copy()
    for tip in tree.tips:
        limb = [point for point in tree.path_up(tip) if left[point]]
        back = [point for point in limb if tree.points[point, 0] == 0.0]
        beside = [point for point in limb if tree.points[point, 0] > 0.0]
        if (
            back
            and len(back) < _CONTACT * len(limb)
            and min(side[beside].mean() for side in inside) >= _SURELY
        ):
            points[back, 0] = thick.cell / 2
    return CurveTree(points, tree.radii, tree.parents)
