"""The checks of what both models read: samples of a surface."""

from typing import Any

import numpy as np
import numpy.typing as npt

from services.inference.unirig_network.serving_errors import InvalidRequestError

_MAX_POINTS = 1 << 18
# Rounding may put a sample just outside the frame.
_LIMIT = 1.001


def check_surface(points: npt.NDArray[Any], normals: npt.NDArray[Any]) -> None:
    """points, normals: (N, 3). Raises InvalidRequestError unless they fit together, are numbers,
    1 to 262144 of them, and the points lie in [-1, 1]."""
    if points.ndim != 2 or points.shape[1] != 3 or not 1 <= len(points) <= _MAX_POINTS:
        raise InvalidRequestError(
            f"there must be 1 to {_MAX_POINTS} points of three coordinates, not {points.shape}"
        )
    if normals.shape != points.shape:
        raise InvalidRequestError(
            f"there must be one normal for each point: {normals.shape} and {points.shape}"
        )
    if not (np.isfinite(points).all() and np.isfinite(normals).all()):
        raise InvalidRequestError("a point or a normal is no finite number")
    if np.abs(points).max() > _LIMIT:
        raise InvalidRequestError("the points must lie in [-1, 1]")
