"""A box of the surface as voxels finer than those of the whole body."""

import numpy as np
from scipy import ndimage

from services.inference.geometric.solid import Bits
from services.inference.geometric.surface import Indices, Points, surface_samples


def surface_cells(
    vertices: Points, faces: Indices, low: Points, high: Points, cell: float
) -> Bits | None:
    """The cells (X, Y, Z) of the box from low to high that the surface crosses; cell (0, 0, 0)
    has its centre at low. None where no triangle is near."""
    corners = vertices[faces]
    within = (corners.max(axis=1) > low) & (corners.min(axis=1) < high)
    around = faces[within.all(axis=1)]
    if not len(around):
        return None
    shape = np.ceil((high - low) / cell).astype(int) + 1
    surface = np.zeros(shape, dtype=bool)
    for samples in surface_samples(vertices, around, cell / 2):
        cells = np.round((samples - low) / cell).astype(np.int64)
        i, j, k = cells[((cells >= 0) & (cells < shape)).all(axis=1)].T
        surface[i, j, k] = True
    return surface


def filled(surface: Bits, ends: list[tuple[int, int]]) -> Bits:
    """What a surface encloses, with the cuts through the body at some sides of the box closed.

    ends: the axis of each such side, and its first (0) or last (-1) slice.
    """
    closed = surface.copy()
    for axis, end in ends:
        slices = np.moveaxis(closed, axis, 0)
        slices[end] = ndimage.binary_fill_holes(slices[end])
    return np.asarray(ndimage.binary_fill_holes(closed))
