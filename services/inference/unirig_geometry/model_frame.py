"""The frame that UniRig's networks think in.

Z up, the model facing -Y, the longest side of the bounding box from -1 to 1. Ours (see geometry) is
+Y up, facing +Z, metres: the same world turned by a quarter about X.
"""

from dataclasses import dataclass

import numpy as np

from services.inference.geometric.surface import Points
from services.inference.geometry import Float


def to_z_up(points: Float) -> Float:
    """Our axes (n, 3) as the model's: (x, y, z) becomes (x, -z, y)."""
    return np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1)


def to_y_up(points: Points) -> Points:
    """The model's axes (n, 3) as ours: (x, y, z) becomes (x, z, -y)."""
    return np.stack([points[:, 0], points[:, 2], -points[:, 1]], axis=1)


@dataclass(frozen=True)
class ModelFrame:
    """Where a model's cube lies in its world. Axes are the model's.

    centre: (3,) float32, the middle of the bounding box, metres.
    scale: float32, metres for each unit: half the longest side.
    """

    centre: Float
    scale: np.float32

    def normalised(self, points: Float) -> Float:
        """World points (n, 3), metres, in the cube from -1 to 1.

        In single precision, and scaled before they are moved, as the reference does it: a
        difference of 1e-7 is enough to sample another face.
        """
        factor = np.float32(1.0) / self.scale
        return points * factor + -self.centre * factor

    def world(self, points: Float) -> Points:
        """Points (n, 3) of the cube in world space, metres."""
        return points.astype(np.float64) * float(self.scale) + self.centre.astype(np.float64)


def frame_of(points: Float) -> ModelFrame:
    """The frame whose cube holds all points (n, 3), metres, model axes."""
    low, high = points.min(axis=0), points.max(axis=0)
    return ModelFrame(centre=(low + high) / 2, scale=np.max(high - low) / 2)
