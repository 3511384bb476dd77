"""From dense weights to the few influences that a game engine keeps for each vertex."""

import numpy as np

from services.inference.geometric.surface import Points
from services.inference.geometry import SkinWeights

# Heat spreads far: weights below FADED times the strongest of a vertex fade, and are gone at GONE.
_FADED = 0.15
_GONE = 0.02


def strongest_influences(weights: Points, count: int) -> SkinWeights:
    """The count strongest of the dense weights (n, joints), the weak ones faded, normalised.

    Every row of weights must have a positive entry; rows need not sum to 1.
    """
    kept = min(count, weights.shape[1])
    joints = np.argsort(-weights, axis=1, kind="stable")[:, :kept]
    strongest = np.take_along_axis(weights, joints, axis=1)
    shares = strongest / strongest[:, :1]
    faded = shares * np.clip((shares - _GONE) / (_FADED - _GONE), 0.0, 1.0)
    values = faded / faded.sum(axis=1, keepdims=True)
    joints = np.where(values > 0.0, joints, 0)
    missing = ((0, 0), (0, count - kept))
    return SkinWeights(
        joints=np.pad(joints, missing).astype(np.int32),
        weights=np.pad(values, missing).astype(np.float32),
    )
