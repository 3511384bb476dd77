"""Skinning weights as heat that flows from the bones (Baran and Popović 2007, section 4)."""

from collections.abc import Callable

import numpy as np
import robust_laplacian
from igl import embree
from scipy import sparse
from scipy.sparse import csgraph, linalg

from services.inference.geometric.bone_segments import BoneSegments
from services.inference.geometric.draft import segment_distances
from services.inference.geometric.solid import Bits
from services.inference.geometric.surface import Indices, Points

# A piece of surface takes part if this share of its vertices sees a bone.
_SEEN_SHARE = 0.1
# A vertex that sees only bones much farther than the nearest one, as a sleeve sees the head but
# not the arm inside, sees none: FARTHER times as far, plus FARTHER_BY body units.
_FARTHER = 1.5
_FARTHER_BY = 0.03
# Bones whose distances differ by less than this share of them are equally near.
_TIE = 1e-3
_NEAREST = 2e-3
_COLUMNS = 16


def pieces(vertices: Points, faces: Indices) -> Indices:
    """For each vertex (n,) which connected piece of the surface it belongs to."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    links = sparse.csr_array(
        (np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2
    )
    return np.asarray(csgraph.connected_components(links, directed=False)[1], dtype=np.int64)


def bone_heat(
    vertices: Points,
    faces: Indices,
    piece: Indices,
    bones: BoneSegments,
    progress: Callable[[float], None],
) -> tuple[Points, Bits]:
    """Weights (n, joints) that sum to 1, and whether each vertex got them (n,).

    Vertices of pieces that hardly see any bone get none: their rows are 0.
    """
    distances, seen = _distances(vertices, faces, bones, lambda share: progress(0.7 * share))
    nearest_of_all = distances.min(axis=1)
    distances[~seen] = np.inf
    nearest = distances.min(axis=1)
    sees = nearest <= _FARTHER * nearest_of_all + _FARTHER_BY
    seen_share = np.bincount(piece, sees) / np.bincount(piece)
    solved = seen_share[piece] >= _SEEN_SHARE
    heated = sees & solved
    if not heated.any():
        return np.zeros((len(vertices), bones.count)), heated

    rows, segments = np.nonzero((distances <= nearest[:, None] * (1.0 + _TIE)) & heated[:, None])
    sources = sparse.csr_array(
        (np.ones(len(rows)), (rows, bones.joints[segments])), shape=(len(vertices), bones.count)
    )
    sources.data[:] = 1.0
    sources = sources.multiply(1.0 / np.maximum(sources.sum(axis=1), 1.0)[:, None]).tocsc()
    heat = np.zeros(len(vertices))
    heat[heated] = 1.0 / np.maximum(nearest[heated], _NEAREST) ** 2
    weights = _diffuse(vertices, faces, heat, sources, lambda share: progress(0.7 + 0.3 * share))
    total = weights.sum(axis=1)
    solved &= total > 1e-6
    weights[~solved] = 0.0
    weights[solved] /= total[solved, None]
    return weights, solved


def _distances(
    vertices: Points, faces: Indices, bones: BoneSegments, progress: Callable[[float], None]
) -> tuple[Points, Bits]:
    """How far each vertex is from each piece of bone, and whether it can see it: (n, S) each."""
    distances = np.empty((len(vertices), len(bones.joints)))
    seen = np.empty(distances.shape, dtype=bool)
    for number, (head, tail) in enumerate(zip(bones.heads, bones.tails, strict=True)):
        progress(number / len(bones.joints))
        distances[:, number] = segment_distances(vertices, head[None], tail[None])[:, 0]
        seen[:, number] = embree.bone_visible(vertices, faces, head, tail)
    return distances, seen


def _diffuse(
    vertices: Points,
    faces: Indices,
    heat: Points,
    sources: sparse.csc_array,
    progress: Callable[[float], None],
) -> Points:
    """Solve (L + M h) w = M h p for each joint, L the robust Laplacian (Sharp and Crane 2020)."""
    stiffness, mass = robust_laplacian.mesh_laplacian(vertices, faces)
    gain = mass.diagonal() * heat
    system = sparse.csc_matrix(stiffness + sparse.diags(gain + 1e-9 * mass.diagonal()))
    factors = linalg.splu(system)
    weights = np.zeros(sources.shape)
    for start in range(0, sources.shape[1], _COLUMNS):
        progress(start / sources.shape[1])
        columns = slice(start, start + _COLUMNS)
        weights[:, columns] = factors.solve(gain[:, None] * sources[:, columns].toarray())
    return np.clip(np.nan_to_num(weights), 0.0, 1.0)
