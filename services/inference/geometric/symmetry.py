"""The vertical mirror plane of a body."""

import numpy as np

from services.inference.geometric.solid import Solid, voxelise
from services.inference.geometric.surface import BodyFrame, Indices, Points

# A body counts as symmetric from this share of its voxels that have a mirror image.
SYMMETRIC = 0.8
# A body in a pose that its two sides do not share still has a plane, from this share on.
_NEARLY = 0.55

_COARSE_RESOLUTION = 40
_PRIOR = 0.03


def symmetric_frame(frame: BodyFrame, vertices: Points, faces: Indices) -> tuple[BodyFrame, float]:
    """Turn and shift a frame so that the best vertical mirror plane becomes x = 0.

    vertices (N, 3) and faces (F, 3) are given in the frame. The plane x = 0 of the world is
    preferred where it is about as good as the best, since models mostly face +Z.
    Returns the new frame and the share of the voxels that have a mirror image, 0..1.
    """
    solid = voxelise(vertices, faces, _COARSE_RESOLUTION)
    centres = solid.centres
    middle = centres.mean(axis=0)
    yaws = np.radians(np.arange(-88.0, 92.0, 4.0))
    scores = np.array([_best_overlap(solid, centres, middle, _across(yaw))[0] for yaw in yaws])
    rough = float(yaws[scores.argmax()])
    fine = rough + np.radians(np.arange(-3.0, 4.0, 1.0))
    fine_scores = [_best_overlap(solid, centres, middle, _across(yaw))[0] for yaw in fine]
    yaw = float(fine[int(np.argmax(fine_scores))])
    best = max(fine_scores)
    for preferred in (0.0, np.pi / 2):
        if _best_overlap(solid, centres, middle, _across(preferred))[0] >= best - _PRIOR:
            yaw = preferred
            break
    overlap, offset = _best_overlap(solid, centres, middle, _across(yaw))
    normal = _across(yaw)
    on_plane = np.array([0.0, 0.0, 0.0])
    if overlap >= _NEARLY:
        on_plane = normal * float(normal @ middle + offset)
    else:
        yaw = 0.0
    return BodyFrame(frame.centre + on_plane / frame.scale, frame.scale, yaw), overlap


def _across(yaw: float) -> Points:
    return np.array([np.cos(yaw), 0.0, np.sin(yaw)])


def mirror_overlap(solid: Solid, normal: Points) -> float:
    """The share of the voxels that have a mirror image, for a plane through the middle."""
    centres = solid.centres
    return _best_overlap(solid, centres, centres.mean(axis=0), normal)[0]


def _best_overlap(
    solid: Solid, centres: Points, middle: Points, normal: Points
) -> tuple[float, float]:
    """The overlap with its mirror image, best over small shifts of the plane: (share, shift)."""
    best = (-1.0, 0.0)
    for step in (0, -1, 1, -2, 2, -3, 3):
        shift = step * solid.cell / 2
        distance = (centres - middle) @ normal - shift
        share = float(solid.holds(centres - 2.0 * distance[:, None] * normal).mean())
        if share > best[0] + 1e-9:
            best = (share, shift)
    return best
