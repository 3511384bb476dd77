"""What a mesh must be to be rigged, whatever format it came in."""

import numpy as np

from services.inference.formats.program_output import invalid_mesh
from services.inference.geometry import Float, Int, Mesh

DEFAULT_MAX_TRIANGLES = 5_000_000
# Each is an object of its own in Blender, whose time for them grows with their square.
_MAX_PARTS = 10_000
# Metres. Below, Blender takes bones for points; above, single precision can tell no limb.
_EXTENTS = (1e-4, 1e7)


def refuse_triangles(count: int, limit: int) -> None:
    """Raises Refusal where a file has more triangles than the limit."""
    if count > limit:
        raise invalid_mesh(
            f"The model has {count:,} triangles; at most {limit:,} can be rigged. "
            "Reduce its polygons and try again."
        )


def refuse_parts(count: int) -> None:
    """Raises Refusal where a file has more separate parts than can be handled one by one."""
    if count > _MAX_PARTS:
        raise invalid_mesh(
            f"The model has {count:,} separate parts; at most {_MAX_PARTS:,} can be rigged. "
            "Join them and try again."
        )


def checked_mesh(vertices: Float, faces: Int, parts: Int, part_names: tuple[str, ...]) -> Mesh:
    """A Mesh without triangles that have no area by their indices.

    vertices (N, 3), faces (F, 3), parts (F,): as in geometry.Mesh. Raises Refusal (INVALID_MESH)
    where there is nothing to rig.
    """
    refuse_parts(len(part_names))
    if len(faces) == 0:
        raise invalid_mesh("The model has no faces: there is no surface to rig.")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise invalid_mesh("The model is damaged: a face refers to a vertex that does not exist.")
    if not np.isfinite(vertices).all():
        raise invalid_mesh("The model is damaged: some vertices are not finite numbers.")
    a, b, c = faces.T
    solid = (a != b) & (b != c) & (c != a)
    faces, parts = faces[solid], parts[solid]
    if len(faces) == 0:
        raise invalid_mesh("The model has no faces with an area: there is no surface to rig.")
    extent = float(np.ptp(vertices, axis=0).max())
    if extent == 0.0:
        raise invalid_mesh("The model has no size: all its vertices are at one place.")
    if not _EXTENTS[0] <= extent <= _EXTENTS[1]:
        raise invalid_mesh(f"The model is {extent:.3g} m large, which is too small or too large.")
    if len(vertices) < 1000 and len(np.unique(vertices, axis=0)) < 4:
        raise invalid_mesh("The model has fewer than four different vertices.")
    return Mesh(vertices, faces, parts, part_names)
