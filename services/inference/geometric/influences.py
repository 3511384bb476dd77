"""From dense weights to the few influences that a game engine keeps for each vertex."""

import numpy as np

from services.inference.geometric.surface import Points
from services.inference.geometry import SkinWeights

# Heat spreads far: weights are raised to SHARPNESS, and those below CUT times
# the strongest of a vertex are dropped.
_SHARPNESS = 1.5
_CUT = 0.03


def strongest_influences(weights: Points, count: int) -> SkinWeights:
    """The count strongest of the dense weights (n, joints), sharpened and normalised.

    Every row of weights must have a positive entry; rows need not sum to 1.
    """
    sharp = (weights / weights.max(axis=1, keepdims=True)) ** _SHARPNESS
    sharp /= sharp.sum(axis=1, keepdims=True)
    kept = min(count, weights.shape[1])
    joints = np.argsort(-sharp, axis=1, kind="stable")[:, :kept]
    values = np.take_along_axis(sharp, joints, axis=1)
    values[values < _CUT * values[:, :1]] = 0.0
    values /= values.sum(axis=1, keepdims=True)
    joints = np.where(values > 0.0, joints, 0)
    missing = ((0, 0), (0, count - kept))
    return SkinWeights(
        joints=np.pad(joints, missing).astype(np.int32),
        weights=np.pad(values, missing).astype(np.float32),
    )
