"""The model as solid voxels: what is inside, whatever the state of its surface."""

from dataclasses import dataclass

import igl
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull, KDTree

from services.inference.geometric.surface import (
    Indices,
    Points,
    longest_sides,
    surface_samples,
)

Bits = npt.NDArray[np.bool_]

_RESOLUTION = 72
_MOST_CELLS = 60_000
_PADDING = 3
# Pairs of a cell and a triangle near it; each takes about 50 ns.
_MOST_WINDING = 200_000_000
# A sheet is as thin as this, in cells; and at most this share of it is so near, in cells, to its
# curves.
_THIN = 2.0
_BESIDE = 0.75
_AWAY = 3.5
_ALL_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Solid:
    """Filled cells of a regular grid that is mirror symmetric about x = 0.

    filled: (X, Y, Z) bool, X odd; column X // 2 has its centres on x = 0.
    origin: (3,) the centre of cell (0, 0, 0), body units.
    cell: the side of a cell, body units.
    """

    filled: Bits
    origin: Points
    cell: float

    @property
    def centres(self) -> Points:
        """The centres of the filled cells, (n, 3), in the order of numpy.argwhere."""
        return np.asarray(self.origin + np.argwhere(self.filled) * self.cell)

    def cells_of(self, points: Points) -> Indices:
        """The cells that hold the points, (n, 3), clipped to the grid."""
        cells = np.round((points - self.origin) / self.cell).astype(np.int64)
        return np.asarray(np.clip(cells, 0, np.array(self.filled.shape) - 1))

    def holds(self, points: Points) -> Bits:
        """Whether each point lies in a filled cell, (n,)."""
        inside = (np.abs(points - self.origin) / self.cell < np.array(self.filled.shape)).all(1)
        i, j, k = self.cells_of(points).T
        return np.asarray(self.filled[i, j, k] & inside)


def bounded_voxels(vertices: Points, faces: Indices) -> Solid:
    """Solid voxels, fine for slender bodies and coarser for bulky ones, which have more of them."""
    solid = voxelise(vertices, faces, _RESOLUTION)
    excess = int(solid.filled.sum()) / _MOST_CELLS
    if excess <= 1.0:
        return solid
    return voxelise(vertices, faces, int(_RESOLUTION / excess ** (1 / 3)))


def convexity(solid: Solid) -> float:
    """The share of a solid's convex hull that it fills, at most about 1."""
    corners = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5])).reshape(3, -1).T
    skin = solid.filled & ~ndimage.binary_erosion(solid.filled)
    points = (np.argwhere(skin)[:, None] + corners).reshape(-1, 3)
    return float(solid.filled.sum() / ConvexHull(np.unique(points, axis=0)).volume)


def is_sheet(solid: Solid, curves: Points) -> bool:
    """Whether nearly all of a solid is at most three cells thick, and not all of it near curves.

    curves: (n, 3) points of its medial curves. Wires and thin legs lie around theirs.
    """
    depths = ndimage.distance_transform_edt(solid.filled)[solid.filled]
    if float(np.quantile(depths, 0.9)) >= _THIN:
        return False
    away = KDTree(curves).query(solid.centres)[0]
    return float(np.quantile(away, _BESIDE)) > _AWAY * solid.cell


def voxelise(vertices: Points, faces: Indices, resolution: int) -> Solid:
    """Solid voxels of a triangle soup, resolution cells along its longest side.

    Inside is what the surface shuts off from outside, or what the generalised winding number
    (Jacobson et al. 2013; fast form by Barill et al. 2018) says; cracks are closed by one cell
    where both find little. The cells of the surface itself are always part of the solid.
    """
    used = vertices[np.unique(faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    cell = float((high - low).max()) / resolution
    half = int(np.ceil(max(abs(low[0]), abs(high[0])) / cell)) + _PADDING
    spans = np.ceil((high - low) / cell).astype(int) + 2 * _PADDING + 1
    shape = (2 * half + 1, int(spans[1]), int(spans[2]))
    origin = np.array([-half * cell, low[1] - _PADDING * cell, low[2] - _PADDING * cell])

    surface = np.zeros(shape, dtype=bool)
    for samples in surface_samples(vertices, faces, cell / 2):
        i, j, k = np.round((samples - origin) / cell).astype(np.int64).T
        surface[i, j, k] = True

    tight = ndimage.binary_fill_holes(surface)
    shut = ~_reached_from_outside(surface)
    inside = tight | _wound(vertices, faces, origin, cell, tight)
    if (inside & ~surface).sum() < 0.6 * (shut & ~surface).sum():
        inside = shut
    return Solid(filled=inside, origin=origin, cell=cell)


def _reached_from_outside(surface: Bits) -> Bits:
    """What is reached from outside when cracks of the surface are closed by one cell."""
    closed = ndimage.binary_dilation(surface, _ALL_NEIGHBOURS)
    outside = ~ndimage.binary_fill_holes(closed)
    return np.asarray(ndimage.binary_dilation(outside, _ALL_NEIGHBOURS) & ~surface)


def _wound(vertices: Points, faces: Indices, origin: Points, cell: float, known: Bits) -> Bits:
    """The cells, beyond those known to be inside, that the surface winds around.

    None where most triangles cross the whole model: each would have to be looked at from nearly
    every cell, which takes minutes, and such a soup has no inside to speak of.
    """
    wound = np.zeros_like(known)
    if (longest_sides(vertices[faces]) ** 3).sum() / cell**3 > _MOST_WINDING:
        return wound
    open_cells = np.argwhere(~known)
    number = igl.fast_winding_number(vertices, faces, origin + open_cells * cell)
    i, j, k = open_cells[np.abs(number) > 0.5].T
    wound[i, j, k] = True
    return wound
