"""The surface that every step works on: checked, turned into the body frame, welded, made small."""

from collections.abc import Iterator
from dataclasses import dataclass

import fast_simplification
import numpy as np
import numpy.typing as npt

from services.inference.geometry import Float, Mesh

Points = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# Longest sides that can be worked with in single precision, metres.
_SMALLEST = 1e-9
_LARGEST = 1e12
_SAMPLES_PER_CHUNK = 500_000
_MOST_SAMPLES = 20_000_000
# 1, 2, 3, 4, 6, 8, 12, ... 1024
_STEP_COUNTS = np.unique(np.concatenate([2 ** np.arange(11), 3 * 2 ** np.arange(9)]))


@dataclass(frozen=True)
class BodyFrame:
    """A similarity from world space to the frame the engine thinks in.

    There the longest side of the model is 2, +Y is up as in the world, and x is the distance to
    the mirror plane (or to the middle, where there is none).

    centre: (3,) world point that becomes the origin.
    scale: body units per metre.
    yaw: radians, the turn about +Y that takes world directions to body directions.
    """

    centre: Points
    scale: float
    yaw: float

    @property
    def turn(self) -> Points:
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])

    def to_body(self, points: Float | Points) -> Points:
        return (points.astype(np.float64) - self.centre) @ self.turn.T * self.scale

    def to_world(self, points: Points) -> Float:
        return (points / self.scale @ self.turn + self.centre).astype(np.float32)


class UnfitInputError(ValueError):
    """What came in can't be rigged; the text tells a user why."""


def check_mesh(mesh: Mesh) -> None:
    """Raise UnfitInputError if no rig can be made for the mesh."""
    if len(mesh.faces) == 0:
        raise UnfitInputError("The model has no faces.")
    if not np.isfinite(mesh.vertices).all():
        raise UnfitInputError("The model has vertices that are not finite numbers.")
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        raise UnfitInputError("The model has faces that refer to vertices it does not have.")
    used = mesh.vertices[np.unique(mesh.faces)].astype(np.float64)
    extent = float(np.ptp(used, axis=0).max())
    if extent <= 0.0:
        raise UnfitInputError("The model has no size: all its vertices are in one place.")
    if extent < 1e-6 * float(np.abs(used).max()):
        raise UnfitInputError("The model is too far from its origin to be measured.")
    if not _SMALLEST < extent < _LARGEST:
        raise UnfitInputError("The model is too small or too large to be measured.")
    if len(np.unique(_cell_numbers(used / extent, 1e-6))) < 4:
        raise UnfitInputError("The model has fewer than four distinct vertices.")


def centred_frame(mesh: Mesh) -> BodyFrame:
    """The frame with its origin in the middle of the bounding box of the mesh's faces."""
    used = mesh.vertices[np.unique(mesh.faces)].astype(np.float64)
    low, high = used.min(axis=0), used.max(axis=0)
    return BodyFrame(centre=(low + high) / 2, scale=2.0 / float((high - low).max()), yaw=0.0)


def weld(vertices: Points, faces: Indices, tolerance: float) -> tuple[Points, Indices, Indices]:
    """Unite vertices that fall into one cell of a grid of the given tolerance.

    The grid may have at most 2^21 cells along a side.
    Returns the distinct vertices (M, 3), the faces that keep three distinct corners (G, 3), and
    for each input vertex its welded index (N,).
    """
    numbers = _cell_numbers(vertices, tolerance)
    _, first, welded = np.unique(numbers, return_index=True, return_inverse=True)
    corners = welded[faces]
    a, b, c = corners.T
    return vertices[first], corners[(a != b) & (b != c) & (c != a)], welded


def _cell_numbers(points: Points, tolerance: float) -> Indices:
    """One number for each point (n,): that of its cell in a grid of the given tolerance."""
    low = points.min(axis=0)
    numbers = np.zeros(len(points), dtype=np.int64)
    for axis in range(3):
        numbers <<= 21
        numbers |= np.round((points[:, axis] - low[axis]) / tolerance).astype(np.int64)
    return numbers


def decimate(vertices: Points, faces: Indices, max_faces: int) -> tuple[Points, Indices]:
    """A surface of about max_faces triangles at most, in the same place.

    Edge collapses (fast-simplification) where the surface is connected enough; what they cannot
    reduce, such as a soup of loose triangles, is united by ever coarser grids.
    """
    if len(faces) <= max_faces:
        return vertices, faces
    points, triangles = fast_simplification.simplify(
        vertices.astype(np.float32), faces.astype(np.int32), target_count=max_faces
    )
    points, triangles = points.astype(np.float64), triangles.astype(np.int64)
    tolerance = 1e-3
    while len(triangles) > 1.25 * max_faces:
        points, triangles, _ = weld(points, triangles, tolerance)
        triangles = triangles[np.unique(np.sort(triangles, axis=1), axis=0, return_index=True)[1]]
        tolerance *= 1.5
    return points, triangles


def surface_samples(vertices: Points, faces: Indices, spacing: float) -> Iterator[Points]:
    """Chunks of points (n, 3) that leave no hole wider than about the spacing in any triangle.

    Where that would be more than _MOST_SAMPLES points, as for thousands of triangles that each
    cross the whole model, the largest triangles get fewer: they lie over each other.
    """
    yield vertices[np.unique(faces)]
    corners = _longest_side_first(vertices[faces])
    along, across = _steps(corners, spacing)
    for n, m in np.unique(np.stack([along, across], axis=1), axis=0):
        grid = _barycentric_grid(int(n), int(m))
        group = np.flatnonzero((along == n) & (across == m))
        stride = max(1, _SAMPLES_PER_CHUNK // len(grid))
        for start in range(0, len(group), stride):
            chunk = corners[group[start : start + stride]]
            yield np.einsum("gk,fkd->fgd", grid, chunk).reshape(-1, 3)


def longest_sides(corners: Points) -> Points:
    """The length of each triangle's longest side, (F,), for corners (F, 3, 3)."""
    return np.asarray(_sides(corners).max(axis=1))


def _sides(corners: Points) -> Points:
    """The lengths of the sides that begin at each corner, (F, 3)."""
    return np.asarray(np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2))


def _longest_side_first(corners: Points) -> Points:
    """Triangles (F, 3, 3), each turned so that its first two corners are farthest apart."""
    turns = (_sides(corners).argmax(axis=1)[:, None] + np.arange(3)) % 3
    return np.take_along_axis(corners, turns[:, :, None], axis=1)


def _steps(corners: Points, spacing: float) -> tuple[Indices, Indices]:
    """Into how many steps each triangle is cut along its longest side and across it, (F,) each.

    Taken from a short list of numbers, so that triangles can be sampled in few groups.
    """
    base = corners[:, 1] - corners[:, 0]
    length = np.linalg.norm(base, axis=1)
    area = np.linalg.norm(np.cross(base, corners[:, 2] - corners[:, 0]), axis=1)
    height = area / np.maximum(length, np.finfo(np.float64).tiny)
    most = len(_STEP_COUNTS) - 1
    along, across = (
        np.minimum(np.searchsorted(_STEP_COUNTS, size / spacing), most) for size in (length, height)
    )
    while (_STEP_COUNTS[along] * _STEP_COUNTS[across]).sum() > _MOST_SAMPLES:
        most -= 1
        along, across = np.minimum(along, most), np.minimum(across, most)
    return _STEP_COUNTS[along], _STEP_COUNTS[across]


def _barycentric_grid(along: int, across: int) -> Points:
    """Points of a triangle as shares of its corners, (n, 3), in rows parallel to its first side."""
    row, place = np.meshgrid(np.arange(across + 1), np.arange(along + 1), indexing="ij")
    third = (row / across).ravel()
    second = (place / along).ravel() * (1.0 - third)
    return np.stack([1.0 - second - third, second, third], axis=1)
