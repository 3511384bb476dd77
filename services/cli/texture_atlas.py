"""Unwraps triangles into one square texture by projecting them along the six axis directions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from services.cli.raster import rasterise

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int32]

_SMOOTHING_ROUNDS = 8
_GAP = 3


@dataclass(frozen=True)
class Atlas:
    """A mesh cut along its charts' borders.

    sources: (M,) int32, the vertex that each cut vertex was; uvs: (M, 2) float32 in [0, 1], v up;
    faces: (F, 3) int32, the faces in their order, as indices of cut vertices.
    """

    sources: Int
    uvs: Float
    faces: Int


def unwrap(vertices: Float, faces: Int, size: int) -> Atlas:
    """Cuts a mesh (vertices (N, 3), faces (F, 3)) into flat charts that do not overlap in uv.

    A chart is a connected patch of faces that look along the same axis; a few pixels of a texture
    of size x size stay free around each.
    """
    normals = np.cross(
        vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]
    )
    first, second = _neighbours(faces)
    directions = _directions(normals, first, second)
    alike = directions[first] == directions[second]
    graph = coo_matrix(
        (np.ones(alike.sum()), (first[alike], second[alike])), shape=(len(faces), len(faces))
    )
    chart_count, charts = connected_components(graph, directed=False)

    keys = charts[:, None].astype(np.int64) * len(vertices) + faces
    cut, cut_faces = np.unique(keys, return_inverse=True)
    sources = (cut % len(vertices)).astype(np.int32)
    chart_of = (cut // len(vertices)).astype(np.int32)
    direction_of = np.zeros(chart_count, np.int64)
    direction_of[charts] = directions
    flat = _projected(vertices[sources], direction_of[chart_of])

    lows = np.full((chart_count, 2), np.inf, np.float32)
    highs = np.full((chart_count, 2), -np.inf, np.float32)
    np.minimum.at(lows, chart_of, flat)
    np.maximum.at(highs, chart_of, flat)
    scale, corners = _packed(highs - lows, size)
    pixels = (flat - lows[chart_of]) * scale + corners[chart_of] + _GAP
    uvs = np.column_stack([pixels[:, 0], size - pixels[:, 1]]) / size
    return Atlas(sources, uvs.astype(np.float32), cut_faces.reshape(faces.shape).astype(np.int32))


def painted_spots(atlas: Atlas, size: int) -> tuple[npt.NDArray[np.bool_], Int, Float]:
    """Which texels a texture of size x size uses, and where on the mesh each of the n lies.

    Returns covered (size, size), and row by row the corners (n, 3) as indices of cut vertices,
    and barycentric (n, 3).
    """
    pixels = np.column_stack([atlas.uvs[:, 0], 1 - atlas.uvs[:, 1]]) * size
    points = np.column_stack([pixels, np.zeros(len(pixels))]).astype(np.float32)
    fragments = rasterise(points, atlas.faces, size, size)
    covered = fragments.faces >= 0
    return covered, atlas.faces[fragments.faces[covered]], fragments.barycentric[covered]


def bled(texture: Float, covered: npt.NDArray[np.bool_]) -> Float:
    """The texture (size, size, 3) with every free texel as its nearest covered one."""
    rows, columns = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    filled: Float = texture[rows, columns]
    return filled


def _neighbours(faces: Int) -> tuple[Int, Int]:
    """Pairs of faces that share an edge."""
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    owners = np.repeat(np.arange(len(faces), dtype=np.int32), 3)
    order = np.lexsort(edges.T)
    same = (edges[order[1:]] == edges[order[:-1]]).all(1)
    return owners[order[1:][same]], owners[order[:-1][same]]


def _directions(normals: Float, first: Int, second: Int) -> npt.NDArray[np.int64]:
    """(F,) in 0..5: +X, -X, +Y, -Y, +Z, -Z, the same over patches rather than face by face."""
    smooth = normals.astype(np.float64)
    for _ in range(_SMOOTHING_ROUNDS):
        around = smooth.copy()
        np.add.at(around, first, smooth[second])
        np.add.at(around, second, smooth[first])
        smooth = around / np.maximum(np.linalg.norm(around, axis=1, keepdims=True), 1e-12)
    axes = np.argmax(np.abs(smooth), axis=1)
    negative = np.take_along_axis(smooth, axes[:, None], 1)[:, 0] < 0
    directions: npt.NDArray[np.int64] = 2 * axes + negative
    return directions


def _projected(points: Float, directions: npt.NDArray[np.int64]) -> Float:
    """(M, 2): each point without the coordinate along its direction, upright where it can be."""
    across = np.array([2, 2, 0, 0, 0, 0])[directions]
    down = np.array([1, 1, 2, 2, 1, 1])[directions]
    mirrored = np.array([-1, 1, 1, 1, 1, -1])[directions]
    rows = np.arange(len(points))
    flipped = np.where(down == 1, -1, 1)
    return np.column_stack([points[rows, across] * mirrored, points[rows, down] * flipped])


def _packed(extents: Float, size: int) -> tuple[float, Float]:
    """The largest scale (pixels a unit) at which all charts fit on shelves, and their corners."""
    order = np.argsort(-extents[:, 1], kind="stable")
    low, high = 0.0, size / float(extents.max())
    corners = np.zeros_like(extents)
    for _ in range(24):
        scale = (low + high) / 2
        tried = _shelved(extents * scale + 2 * _GAP, order, size)
        if tried is None:
            high = scale
        else:
            low, corners = scale, tried
    return low, corners


def _shelved(boxes: Float, order: npt.NDArray[np.int64], size: int) -> Float | None:
    corners = np.zeros_like(boxes)
    x = y = shelf = 0.0
    for chart in order:
        width, height = boxes[chart]
        if x + width > size:
            x, y, shelf = 0.0, y + shelf, 0.0
        if width > size or y + height > size:
            return None
        corners[chart] = x, y
        x += width
        shelf = max(shelf, height)
    return corners
