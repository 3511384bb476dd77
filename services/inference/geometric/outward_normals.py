"""Which way is out, whatever the winding of the triangles."""

import igl
import numpy as np

from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Indices, Points

# How far from a triangle the solid is looked at, cells; its own cell is filled anyway.
_STEP = 1.5
# An orientable patch has an outside if this share of its area, taken with its sign, says so.
_CLEAR = 0.2


def outward_normals(vertices: Points, faces: Indices, solid: Solid) -> Points:
    """For each vertex (n, 3) the unit normal that points out of the solid.

    Triangles are turned like their neighbours, and each patch of them so that the solid is behind
    it. Zero where the solid is on neither side, as of a sheet, or on both, as of a lining.
    """
    turned, patch = igl.bfs_orient(faces)
    corners = vertices[turned]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1)
    step = _STEP * solid.cell * normals / np.maximum(areas, 1e-18)[:, None]
    middles = corners.mean(axis=1)
    votes = solid.holds(middles - step).astype(np.float64) - solid.holds(middles + step)
    outside = np.bincount(patch, areas * votes) / np.maximum(np.bincount(patch, areas), 1e-18)
    normals *= np.where(np.abs(outside) > _CLEAR, np.sign(outside), 0.0)[patch, None]
    sums = [
        np.bincount(turned.ravel(), np.repeat(normals[:, axis], 3), len(vertices))
        for axis in range(3)
    ]
    result = np.stack(sums, axis=1)
    return np.asarray(result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-18))
