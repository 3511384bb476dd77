"""Skinning weights as heat that flows from the bones (Baran and Popović 2007, section 4)."""

from collections.abc import Callable

import numpy as np
import robust_laplacian
from scipy import sparse
from scipy.sparse import linalg

from services.inference.geometric.bone_segments import BoneSegments
from services.inference.geometric.bone_sight import BoneSight
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Indices, Points
from services.inference.geometric.voxel_geodesic import geodesic_distances

# A vertex that sees only bones much farther than the nearest one, as a sleeve sees the head but
# not the arm inside, sees none: FARTHER times as far, plus FARTHER_BY body units.
_FARTHER = 1.5
_FARTHER_BY = 0.03
# How strongly a vertex is drawn to the bone it belongs to; less where it sees none.
_HEAT = 2.75
_BLIND_HEAT = 0.8
# Bones whose distances differ by less than this share of them are equally near.
_TIE = 1e-3
_NEAREST = 2e-3
_COLUMNS = 16


def bone_heat(
    vertices: Points,
    faces: Indices,
    solid: Solid,
    bones: BoneSegments,
    sight: BoneSight,
    progress: Callable[[float, str], None],
) -> Points:
    """Weights (n, joints) that sum to 1.

    A vertex takes heat from the nearest bone it sees. One that sees none, as under clothes, or
    between fingers, takes less, from the bone that is nearest through the solid.
    """
    straight = np.where(sight.visible, sight.distances, np.inf)
    nearest = straight.min(axis=1)
    sees = nearest <= _FARTHER * sight.distances.min(axis=1) + _FARTHER_BY
    blind = np.flatnonzero(~sees)
    through = geodesic_distances(
        vertices[blind], solid, bones, lambda s: progress(0.5 * s, "Measuring distances")
    )
    nearest[blind] = through.min(axis=1)

    rows, segments = np.nonzero((straight <= nearest[:, None] * (1.0 + _TIE)) & sees[:, None])
    blind_rows, joints = np.nonzero(through <= nearest[blind, None] * (1.0 + _TIE))
    sources = np.zeros((len(vertices), bones.count))
    sources[rows, bones.joints[segments]] = 1.0
    sources[blind[blind_rows], joints] = 1.0
    sources /= sources.sum(axis=1, keepdims=True)
    heat = np.where(sees, _HEAT, _BLIND_HEAT) / np.maximum(nearest, _NEAREST) ** 2
    weights = _diffuse(
        vertices, faces, heat, sources, lambda s: progress(0.5 + 0.5 * s, "Letting heat flow")
    )
    total = weights.sum(axis=1, keepdims=True)
    return np.where(total > 0.5, weights / np.maximum(total, 0.5), sources)


def _diffuse(
    vertices: Points,
    faces: Indices,
    heat: Points,
    sources: Points,
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
        weights[:, columns] = factors.solve(gain[:, None] * sources[:, columns])
    return np.clip(np.nan_to_num(weights), 0.0, 1.0)
