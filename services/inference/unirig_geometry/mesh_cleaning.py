"""The surface that UniRig samples: vertices united, faces reduced, normals made."""

from dataclasses import dataclass

import fast_simplification
import numpy as np

from services.inference.geometric.surface import Indices, Points, decimate
from services.inference.geometry import Float, Int

MAX_FACES = 50_000
_DIGITS = 8
# Longest sides for which rounding to _DIGITS and the edge collapses, both absolute, do well.
_SIZES = (1e-2, 1e3)
# An angle or a length below is none.
_NONE = 1e-8
_NO_LENGTH = np.finfo(np.float64).resolution * 100


@dataclass(frozen=True)
class CleanMesh:
    """A surface without double vertices.

    vertices: (N, 3) float32, each used by a face. vertex_normals: (N, 3) float32, the mean of the
    faces around by their angles (Thürrner and Wüthrich 1998).
    faces: (F, 3) int64. face_normals: (F, 3) float32. A normal is of length 1, or 0 where there is
    no area.
    """

    vertices: Float
    faces: Indices
    vertex_normals: Float
    face_normals: Float


def clean_mesh(vertices: Float, faces: Int | Indices, max_faces: int = MAX_FACES) -> CleanMesh:
    """The surface of a triangle soup with about max_faces faces at most.

    vertices: (N, 3), metres, any axes. faces: (F, 3). Vertices that are equal to 8 decimals are
    united; more faces than max_faces are reduced by collapsing edges (Garland and Heckbert 1997).
    """
    unit = _unit(vertices)
    points, triangles, _ = united(vertices.astype(np.float64) / unit, faces)
    if len(triangles) > max_faces:
        points, triangles = _reduced(points, triangles, max_faces)
        points, triangles, _ = united(points, triangles)
    normals = _face_normals(points, triangles)
    return CleanMesh(
        vertices=(points * unit).astype(np.float32),
        faces=triangles,
        vertex_normals=_vertex_normals(points, triangles, normals).astype(np.float32),
        face_normals=normals.astype(np.float32),
    )


def united(vertices: Points, faces: Int | Indices) -> tuple[Points, Indices, Indices]:
    """One vertex where several are equal to 8 decimals, in the order of the first of each.

    Faces with a corner that is not finite are dropped, then vertices without a face.
    Returns vertices (M, 3), faces (G, 3), and for each input vertex (N,) its new index, -1 where it
    was dropped.
    """
    whole = np.isfinite(vertices).all(axis=1)
    corners = faces[whole[faces].all(axis=1)].astype(np.int64)
    used = np.zeros(len(vertices), dtype=bool)
    used[corners] = True
    kept = np.flatnonzero(used)
    cells = np.round(vertices[kept] * 10**_DIGITS).astype(np.int64)
    first, numbers = distinct_rows(cells)
    index = np.full(len(vertices), -1, dtype=np.int64)
    index[kept] = numbers
    return vertices[kept[first]], index[corners], index


def distinct_rows(rows: Indices | Float) -> tuple[Indices, Indices]:
    """Where each distinct row of (n, 3) comes first, in order, and which of these each is (n,)."""
    order = np.lexsort(rows.T)
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (np.diff(rows[order], axis=0) != 0).any(axis=1)
    # lexsort is stable: the first of its equals comes first.
    first = order[new]
    by_place = np.argsort(first)
    rank = np.empty_like(by_place)
    rank[by_place] = np.arange(len(first))
    numbers = np.empty(len(rows), dtype=np.int64)
    numbers[order] = rank[np.cumsum(new) - 1]
    return first[by_place], numbers


def _unit(vertices: Float) -> float:
    """Metres, or what is large enough to measure the model in; a power of two, so exact."""
    extent = float(np.ptp(vertices[np.isfinite(vertices).all(axis=1)], axis=0).max())
    if extent == 0.0 or _SIZES[0] <= extent <= _SIZES[1]:
        return 1.0
    return float(2.0 ** np.round(np.log2(extent)))


def _reduced(vertices: Points, faces: Indices, max_faces: int) -> tuple[Points, Indices]:
    points, triangles = fast_simplification.simplify(
        vertices, faces.astype(np.int32), target_count=max_faces
    )
    if len(triangles) > 1.25 * max_faces:
        # Loose triangles have no edges to collapse: they are united by ever coarser grids.
        extent = float(np.ptp(vertices, axis=0).max())
        points, triangles = decimate(vertices / extent, faces, max_faces)
        points = points * extent
    return points.astype(np.float64), triangles.astype(np.int64)


def _face_normals(vertices: Points, faces: Indices) -> Points:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return _unit_rows(np.cross(b - a, c - a))


def _vertex_normals(vertices: Points, faces: Indices, face_normals: Points) -> Points:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    angles = np.stack([_angle(a, b, c), _angle(b, c, a), _angle(c, a, b)], axis=1)
    angles[(angles < _NONE).any(axis=1)] = 0.0
    sums = np.zeros_like(vertices)
    for corner in range(3):
        for axis in range(3):
            share = angles[:, corner] * face_normals[:, axis]
            sums[:, axis] += np.bincount(faces[:, corner], share, len(vertices))
    return _unit_rows(sums)


def _angle(at: Points, left: Points, right: Points) -> Points:
    cosine = (_unit_rows(left - at) * _unit_rows(right - at)).sum(axis=1)
    return np.asarray(np.arccos(np.clip(cosine, -1.0, 1.0)))


def _unit_rows(rows: Points) -> Points:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > _NO_LENGTH)
