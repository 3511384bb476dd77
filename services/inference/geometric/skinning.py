"""Skinning weights for every vertex of a mesh: heat on a small surface, carried over."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import igl
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from services.inference.geometric.bone_heat import bone_heat
from services.inference.geometric.bone_segments import BoneSegments
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Indices, Points

# A loose piece no larger than this, such as an eye or a button, moves as one; body units.
_RIGID_PIECE = 0.08
_CHUNK = 50_000


@dataclass(frozen=True)
class SkinnedSurface:
    """A welded surface with dense weights, (n, joints), each row summing to 1."""

    vertices: Points
    faces: Indices
    weights: Points


def skin_surface(
    vertices: Points,
    faces: Indices,
    solid: Solid,
    bones: BoneSegments,
    progress: Callable[[float, str], None],
) -> SkinnedSurface:
    """Dense weights for a welded surface of moderate size. All in the body frame."""
    weights = bone_heat(vertices, faces, solid, bones, progress)
    return SkinnedSurface(
        vertices, faces, _rigid_crumbs(vertices, _pieces(vertices, faces), weights)
    )


def _pieces(vertices: Points, faces: Indices) -> Indices:
    """For each vertex (n,) which connected piece of the surface it belongs to."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    links = sparse.csr_array(
        (np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2
    )
    return np.asarray(csgraph.connected_components(links, directed=False)[1], dtype=np.int64)


def _rigid_crumbs(vertices: Points, piece: Indices, weights: Points) -> Points:
    """Give each small loose piece one set of weights: the mean of its vertices'."""
    count = int(piece.max()) + 1
    low = np.full((count, 3), np.inf)
    high = np.full((count, 3), -np.inf)
    np.minimum.at(low, piece, vertices)
    np.maximum.at(high, piece, vertices)
    small = (high - low).max(axis=1) <= _RIGID_PIECE
    sizes = np.bincount(piece, minlength=count)
    if not small.any() or small.all():
        return weights
    means = np.zeros((count, weights.shape[1]))
    np.add.at(means, piece, weights)
    means /= np.maximum(sizes, 1)[:, None]
    rigid = small[piece]
    result = weights.copy()
    result[rigid] = means[piece[rigid]]
    return result


def weights_at(points: Points, surface: SkinnedSurface) -> Iterator[tuple[float, Points]]:
    """Dense weights for points (n, 3), from where the surface is nearest, chunk by chunk.

    Yields the share of the points that are done before, 0..1, and the chunk's weights.
    """
    for start in range(0, len(points), _CHUNK):
        chunk = points[start : start + _CHUNK]
        _, face, closest = igl.point_mesh_squared_distance(chunk, surface.vertices, surface.faces)
        corners = surface.faces[face]
        a, b, c = (np.ascontiguousarray(surface.vertices[corners[:, k]]) for k in range(3))
        shares = igl.barycentric_coordinates(closest, a, b, c)
        shares = np.where(np.isfinite(shares), np.clip(shares, 0.0, 1.0), 1.0 / 3.0)
        shares /= shares.sum(axis=1, keepdims=True)
        dense = sum(shares[:, k, None] * surface.weights[corners[:, k]] for k in range(3))
        yield start / len(points), dense
