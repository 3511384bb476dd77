"""Skinning weights for every vertex of a mesh: heat on a small surface, carried over."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import igl
import numpy as np

from services.inference.geometric.bone_heat import bone_heat
from services.inference.geometric.bone_segments import BoneSegments
from services.inference.geometric.bone_sight import bone_sight
from services.inference.geometric.loose_pieces import rigid_pieces
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Indices, Points

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
    sight = bone_sight(vertices, faces, solid, bones, lambda s: progress(0.4 * s, "Casting rays"))
    weights = bone_heat(
        vertices, faces, solid, bones, sight, lambda s, message: progress(0.4 + 0.6 * s, message)
    )
    return SkinnedSurface(
        vertices, faces, rigid_pieces(vertices, faces, sight, weights, solid.cell)
    )


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
