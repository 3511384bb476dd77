"""The inside of a mesh as the centres of voxels, in the two ways that UniRig has.

Both take vertices (N, 3) float64 in the cube from -1 to 1 and faces (F, 3) of one mesh, and divide
the cube into grid^3 voxels. A voxel is inside where its centre lies between the first and the last
hit of the surface along at least two of the three axes.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from services.inference.geometric.surface import Indices, Points

Bits = npt.NDArray[np.bool_]

# Pairs of a triangle and a pixel or voxel that are tested at once.
_PAIRS = 2_000_000
# Where within a pixel a ray passes, right and up of its middle, in pixels: one of the four samples
# of a multisampled image.
_RAY_RIGHT, _RAY_UP = -0.125, -0.375
# For each axis that is looked along from its positive and its negative end: the axis and the
# direction that are right and up in the image.
_VIEWS = {
    (0, 1): ((2, -1), (1, 1)),
    (0, -1): ((2, 1), (1, 1)),
    (1, 1): ((0, 1), (2, -1)),
    (1, -1): ((0, 1), (2, 1)),
    (2, 1): ((0, 1), (1, 1)),
    (2, -1): ((0, -1), (1, 1)),
}
# A step of a depth image of 24 bits between planes at 0.05 and 4.
_DEPTH_STEP = 3.95 / 2**24


def filled_between_depths(vertices: Points, faces: Indices, grid: int) -> Bits:
    """The voxels between six depth images of the mesh, (grid, grid, grid) bool.

    The reference renders these images by default, and this follows it in its two peculiarities:
    rays pass beside the middle of their pixels, and heights along z are compared as if mirrored.
    Voxel (i, j, k) has its centre at (2 (i, j, k) + 1) / grid - 1.
    """
    centres = (2 * np.arange(grid) + 1) / grid - 1
    votes = np.zeros((grid, grid, grid), dtype=np.uint8)
    for axis in range(3):
        top = np.expand_dims(_nearest(vertices, faces, axis, 1, grid), axis)
        bottom = np.expand_dims(-_nearest(vertices, faces, axis, -1, grid), axis)
        if axis == 2:
            top, bottom = -bottom, -top
        heights = np.expand_dims(centres, [other for other in range(3) if other != axis])
        votes += (heights >= bottom - _DEPTH_STEP) & (heights <= top + _DEPTH_STEP)
    return votes >= 2


def voxel_centres(filled: Bits) -> Points:
    """The centres (M, 3) of the voxels that filled_between_depths found."""
    return np.asarray((2 * np.argwhere(filled) + 1) / len(filled) - 1)


def filled_between_crossed(vertices: Points, faces: Indices, grid: int) -> Points:
    """The centres (M, 3) of the voxels that the surface crosses, and of those between them.

    The voxels start half a voxel before the lowest vertex. Without the peculiarities of the images.
    """
    side = 2.0 / grid
    low = vertices.min(axis=0)
    shape = np.round(np.ptp(vertices, axis=0) / side).astype(np.int64) + 2
    crossed = np.zeros(shape, dtype=bool)
    corners = (vertices[faces] - low) / side
    for triangles, voxels in _pairs(np.ceil(corners.min(1) - 0.5), np.floor(corners.max(1) + 0.5)):
        hit = voxels[_overlaps(corners[triangles] - voxels[:, None])]
        crossed[tuple(hit.T)] = True
    votes = np.zeros(shape, dtype=np.uint8)
    for axis in range(3):
        begun = np.maximum.accumulate(crossed, axis)
        left = np.flip(np.maximum.accumulate(np.flip(crossed, axis), axis), axis)
        votes += begun & left
    return np.asarray(low + np.argwhere(crossed | (votes >= 2)) * side)


def _nearest(vertices: Points, faces: Indices, axis: int, end: int, grid: int) -> Points:
    """How far towards an end (1 or -1) of an axis the surface reaches, along each ray (grid, grid).

    Positive towards that end, -inf where there is no surface; by the other two axes in order.
    """
    (right, rightward), (up, upward) = _VIEWS[axis, end]
    offset = np.zeros(3)
    offset[right], offset[up] = rightward * _RAY_RIGHT, upward * _RAY_UP
    across = [other for other in range(3) if other != axis]
    # In pixels, such that the rays pass through whole numbers.
    places = ((vertices + 1) * grid / 2 - 0.5 - offset)[:, across]
    corners = np.concatenate([places[faces], end * vertices[faces, axis, None]], axis=2)
    corners = corners[np.ptp(corners[:, :, 1], axis=1) > 0.0]
    nearest = np.full((grid, grid), -np.inf)
    lowest, highest = corners[:, :, 1:2].min(axis=1), corners[:, :, 1:2].max(axis=1)
    for triangles, rows in _pairs(*_whole(lowest, highest, grid)):
        first, last = _crossings(corners[triangles], rows)
        width = last[:, 0] - first[:, 0]
        slope = (last[:, 1] - first[:, 1]) / np.where(width > 0.0, width, 1.0)
        for spans, pixels in _pairs(*_whole(first[:, :1], last[:, :1], grid)):
            depth = first[spans, 1] + slope[spans] * (pixels[:, 0] - first[spans, 0])
            np.maximum.at(nearest, (pixels[:, 0], rows[spans, 0]), depth)
    return nearest


def _whole(low: Points, high: Points, grid: int) -> tuple[Points, Points]:
    """The first and the last pixel of an image of grid pixels from low to high, each (n, 1)."""
    return np.maximum(np.ceil(low), 0), np.minimum(np.floor(high), grid - 1)


def _crossings(corners: Points, rows: Indices) -> tuple[Points, Points]:
    """Where a row (n, 1) of pixels enters and leaves a triangle: place and depth, two of (n, 2).

    corners: (n, 3, 3), each with its place in the row, its row, and its depth.
    """
    ends = np.roll(corners, -1, axis=1)
    rise = ends[:, :, 1] - corners[:, :, 1]
    share = (rows - corners[:, :, 1]) / np.where(rise == 0.0, np.nan, rise)
    points = corners[:, :, ::2] + share[:, :, None] * (ends - corners)[:, :, ::2]
    crossed = (share >= 0.0) & (share <= 1.0)
    each = np.arange(len(rows))
    first = np.where(crossed, points[:, :, 0], np.inf).argmin(axis=1)
    last = np.where(crossed, points[:, :, 0], -np.inf).argmax(axis=1)
    return points[each, first], points[each, last]


def _overlaps(corners: Points) -> Bits:
    """Whether triangles (n, 3, 3) touch the cube of side 1 around the origin (n,): no axis
    separates them (Akenine-Möller 2001)."""
    edges = np.roll(corners, -1, axis=1) - corners
    normal = np.cross(edges[:, 0], edges[:, 1])
    touching = np.abs((normal * corners[:, 0]).sum(axis=1)) <= 0.5 * np.abs(normal).sum(axis=1)
    for axis in range(3):
        b, c = (axis + 1) % 3, (axis + 2) % 3
        touching &= (corners[:, :, axis].min(1) <= 0.5) & (corners[:, :, axis].max(1) >= -0.5)
        for edge in edges.transpose(1, 0, 2):
            places = edge[:, None, b] * corners[:, :, c] - edge[:, None, c] * corners[:, :, b]
            reach = 0.5 * (np.abs(edge[:, b]) + np.abs(edge[:, c]))
            touching &= (places.min(axis=1) <= reach) & (places.max(axis=1) >= -reach)
    return np.asarray(touching)


def _pairs(low: Points, high: Points) -> Iterator[tuple[Indices, Indices]]:
    """Each box's number (n,) with each whole point (n, D) from its low to its high corner.

    low, high: (B, D). The boxes come in chunks, so that memory stays flat.
    """
    first = low.astype(np.int64)
    sides = np.maximum(high.astype(np.int64) - first + 1, 0)
    counts = sides.prod(axis=1)
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS, side="right")))
        boxes = np.repeat(np.arange(start, stop), counts[start:stop])
        number = np.arange(len(boxes)) - (ends - counts)[boxes] + before
        points = np.empty((len(boxes), low.shape[1]), dtype=np.int64)
        for axis in reversed(range(low.shape[1])):
            points[:, axis] = number % sides[boxes, axis]
            number //= sides[boxes, axis]
        yield boxes, points + first[boxes]
        start = stop
