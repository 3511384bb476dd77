"""Bodies made of capsules, with known joints, for tests of rigging. Metres, +Y up, facing +Z."""

import numpy as np
import numpy.typing as npt
import trimesh
from scipy.spatial.transform import Rotation

from services.inference.geometry import Mesh, Skeleton

Vector = tuple[float, float, float]


def as_mesh(*parts: trimesh.Trimesh) -> Mesh:
    """One mesh of several closed parts that overlap but share no vertex."""
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts)])
    return Mesh(
        vertices=np.vstack([part.vertices for part in parts]).astype(np.float32),
        faces=np.vstack(
            [part.faces + offset for part, offset in zip(parts, offsets[:-1], strict=True)]
        ).astype(np.int32),
        parts=np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts]).astype(
            np.int32
        ),
        part_names=tuple(f"part_{number}" for number in range(len(parts))),
    )


def triangles(vertices: npt.ArrayLike, faces: npt.ArrayLike) -> Mesh:
    """A mesh of one part from plain lists."""
    corners = np.asarray(faces, dtype=np.int32).reshape(-1, 3)
    return Mesh(
        vertices=np.asarray(vertices, dtype=np.float32),
        faces=corners,
        parts=np.zeros(len(corners), dtype=np.int32),
        part_names=("part",),
    )


def capsule(start: Vector, end: Vector, radius: float) -> trimesh.Trimesh:
    along = np.subtract(end, start)
    length = float(np.linalg.norm(along))
    smooth = trimesh.creation.capsule(height=length, radius=radius, count=[12, 12])
    body = smooth.subdivide_to_size(max(0.08, length / 6), return_index=False)
    assert isinstance(body, trimesh.Trimesh)
    turn, _ = Rotation.align_vectors(along[None], [[0.0, 0.0, length]])
    body.vertices = turn.apply(body.vertices) + np.add(start, end) / 2
    return body


def person() -> Mesh:
    """1.8 m tall in T-pose: hips at 0.95, shoulders at 1.4, feet towards +Z."""
    head = trimesh.creation.icosphere(subdivisions=2, radius=0.12)
    head.apply_translation((0, 1.68, 0))
    parts = [
        capsule((0, 0.95, 0), (0, 1.4, 0), 0.13),
        capsule((0, 1.4, 0), (0, 1.6, 0), 0.06),
        head,
    ]
    for side in (1, -1):
        parts += [
            capsule((side * 0.1, 0.95, 0), (side * 0.1, 0.08, 0), 0.075),
            capsule((side * 0.1, 0.05, -0.02), (side * 0.1, 0.05, 0.15), 0.045),
            capsule((side * 0.12, 1.4, 0), (side * 0.8, 1.4, 0), 0.05),
        ]
    return as_mesh(*parts)


def person_with_hands(fingered: tuple[int, ...] = (1, -1)) -> Mesh:
    """A person whose arms end in palms, the thumbs towards +Z.

    fingered: the sides whose hand has five fingers; the other has one mitten.
    """
    body = person()
    parts = [trimesh.Trimesh(body.vertices, body.faces, process=False)]
    for side in (1, -1):
        parts.append(capsule((side * 0.78, 1.4, 0), (side * 0.88, 1.4, 0), 0.045))
        if side not in fingered:
            parts.append(capsule((side * 0.88, 1.4, 0), (side * 0.97, 1.4, 0), 0.04))
            continue
        parts.append(capsule((side * 0.8, 1.4, 0.03), (side * 0.86, 1.4, 0.11), 0.012))
        for z in (0.036, 0.012, -0.012, -0.036):
            parts.append(capsule((side * 0.9, 1.4, z), (side * 1.0, 1.4, 1.6 * z), 0.009))
    return as_mesh(*parts)


def beetle() -> Mesh:
    """Six long legs that bend once, and a body along z."""
    parts = [capsule((0, 0.3, -0.3), (0, 0.3, 0.3), 0.12)]
    for side in (1, -1):
        for z in (-0.3, 0.0, 0.3):
            knee = (side * 0.4, 0.45, 1.5 * z)
            parts.append(capsule((side * 0.05, 0.3, 0.7 * z), knee, 0.03))
            parts.append(capsule(knee, (side * 0.75, 0.03, 2 * z), 0.03))
    return as_mesh(*parts)


def dog() -> Mesh:
    """A metre and a half long, on four legs, tail up, head towards +Z."""
    parts = [
        capsule((0, 0.6, -0.4), (0, 0.6, 0.4), 0.15),
        capsule((0, 0.65, 0.4), (0, 0.95, 0.6), 0.08),
        capsule((0, 0.95, 0.6), (0, 0.93, 0.78), 0.09),
        capsule((0, 0.65, -0.5), (0, 0.9, -0.85), 0.04),
    ]
    for side in (1, -1):
        for z in (0.38, -0.38):
            parts.append(capsule((side * 0.1, 0.55, z), (side * 0.1, 0.05, z), 0.05))
    return as_mesh(*parts)


def swan() -> Mesh:
    """A bird that stands with its flat wings spread, 1.8 m wide, facing +Z."""
    parts = [
        capsule((0, 0.5, -0.1), (0, 0.55, 0.15), 0.13),
        capsule((0, 0.6, 0.2), (0, 0.95, 0.3), 0.045),
        capsule((0, 0.95, 0.3), (0, 0.93, 0.45), 0.04),
        capsule((0, 0.5, -0.2), (0, 0.5, -0.5), 0.05),
    ]
    for side in (1, -1):
        arm = capsule((side * 0.1, 0.6, 0.1), (side * 0.9, 0.6, 0.1), 0.03)
        feathers = trimesh.creation.box((0.8, 0.03, 0.3))
        leg = capsule((side * 0.08, 0.45, 0), (side * 0.08, 0.03, 0), 0.03)
        foot = capsule((side * 0.08, 0.03, 0), (side * 0.08, 0.03, 0.12), 0.03)
        parts += [arm, feathers.apply_translation((side * 0.5, 0.6, -0.05)), leg, foot]
    return as_mesh(*parts)


def two_quads() -> Mesh:
    """Two flat squares that touch nowhere."""
    square = np.array([[0, 0, 0], [0.4, 0, 0], [0.4, 0.4, 0], [0, 0.4, 0]])
    return triangles(
        np.vstack([square, square + np.array([0, 1, 0])]),
        [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]],
    )


def dome() -> Mesh:
    """An open half sphere."""
    ball = trimesh.creation.icosphere(subdivisions=3)
    ball.update_faces(ball.triangles_center[:, 1] > 0)
    ball.remove_unreferenced_vertices()
    return as_mesh(ball)


def chain_of(*points: Vector) -> Skeleton:
    """Joints one after the other at all points but the last, with names from a user's mind."""
    count = len(points) - 1
    places = np.array(points, dtype=np.float32)
    return Skeleton(
        names=tuple(f"Кость {number}" for number in range(count)),
        parents=np.arange(-1, count - 1, dtype=np.int32),
        heads=places[:-1],
        tails=places[1:],
    )
