"""Takes weights from the mesh that was read to the vertices of a file."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from services.inference.formats.joints import strongest
from services.inference.geometry import Float, Mesh, SkinWeights


def same_vertices(mesh: Mesh, vertices: Float) -> bool:
    """Whether vertices (N, 3) are those of the mesh, in its order."""
    if vertices.shape != mesh.vertices.shape:
        return False
    return bool(np.allclose(vertices, mesh.vertices, rtol=0.0, atol=1e-6 * mesh.extent))


def vertex_finder(mesh: Mesh) -> Callable[[npt.NDArray[Any]], npt.NDArray[np.int64]]:
    """positions (n, 3) in rest space -> (n,) the mesh's vertex nearest to each."""
    tree = cKDTree(mesh.vertices)
    return lambda positions: np.asarray(tree.query(positions)[1], np.int64)


def rows(skin: SkinWeights | None, vertices: npt.NDArray[Any]) -> SkinWeights:
    """The weights of some vertices, at most four each; all on the root where there are none."""
    if skin is None:
        joints = np.zeros((len(vertices), 4), np.int32)
        weights = np.zeros((len(vertices), 4), np.float32)
        weights[:, 0] = 1.0
        return SkinWeights(joints, weights)
    picked = strongest(skin.joints[vertices], skin.weights[vertices])
    lack = ((0, 0), (0, 4 - picked.joints.shape[1]))
    return SkinWeights(np.pad(picked.joints, lack), np.pad(picked.weights, lack))
