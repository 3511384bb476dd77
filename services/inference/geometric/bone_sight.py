"""How a surface sees the bones: from where it is, and which way it faces."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from igl import embree

from services.inference.geometric.bone_segments import BoneSegments
from services.inference.geometric.outward_normals import outward_normals
from services.inference.geometric.solid import Bits, Solid
from services.inference.geometric.surface import Indices, Points

# A bone straight before the surface is so many times as far as one straight behind it.
_BEFORE = 2000.0


@dataclass(frozen=True)
class BoneSight:
    """What n vertices see of S pieces of bone.

    distances: (n, S) body units; twice as long for a bone beside the surface as for one straight
    behind it, and more for one before it.
    visible: (n, S) whether no surface is between.
    backed: (n,) whether a vertex sees a bone that does not lie before the surface.
    """

    distances: Points
    visible: Bits
    backed: Bits


def bone_sight(
    vertices: Points,
    faces: Indices,
    solid: Solid,
    bones: BoneSegments,
    progress: Callable[[float], None],
) -> BoneSight:
    """Flesh covers its own bone: a vertex belongs to the bone behind it rather than to one that
    is as near but beside it, as a leg's is beside the belly. All in the body frame."""
    normals = outward_normals(vertices, faces, solid)
    shape = len(vertices), len(bones.joints)
    distances, visible = np.empty(shape), np.empty(shape, dtype=bool)
    backed = np.zeros(len(vertices), dtype=bool)
    for number, (head, tail) in enumerate(zip(bones.heads, bones.tails, strict=True)):
        progress(number / len(bones.joints))
        distances[:, number], behind = _least_distances(vertices, normals, head, tail)
        visible[:, number] = embree.bone_visible(vertices, faces, head, tail)
        backed |= visible[:, number] & behind
    return BoneSight(distances, visible, backed)


def _least_distances(
    vertices: Points, normals: Points, head: Points, tail: Points
) -> tuple[Points, Bits]:
    """How far a piece of bone is from each vertex, and whether its nearest point is not before the
    surface: (n,) each. Its ends count too, which may lie better behind the surface."""
    along = tail - head
    share = np.clip((vertices - head) @ along / max(float(along @ along), 1e-18), 0.0, 1.0)
    distances, facing = _facing_distances(vertices, normals, head + share[:, None] * along)
    for end in (head, tail):
        distances = np.minimum(distances, _facing_distances(vertices, normals, end)[0])
    return distances, facing >= 0.5


def _facing_distances(vertices: Points, normals: Points, points: Points) -> tuple[Points, Points]:
    """The distances of points, and how well they lie behind the surface: 1 for straight behind it,
    0.5 beside it, 0 before it; 1 too where the surface has no normal."""
    away = vertices - points
    straight = np.sqrt(np.einsum("ij,ij->i", away, away))
    cosine = np.einsum("ij,ij->i", away, normals) / np.maximum(straight, 1e-12)
    known = np.einsum("ij,ij->i", normals, normals) > 0.0
    facing = np.where(known, (1.0 + cosine) / 2.0, 1.0)
    return straight / np.maximum(facing, 1.0 / _BEFORE), facing
