"""From the joints that UniRig predicts to a skeleton as every stage passes it on."""

import numpy as np

from services.inference.geometric.surface import Points, UnfitInputError
from services.inference.geometry import Int, Mesh, Skeleton

FEWEST_JOINTS = 2
# Shares of the model's longest side: how far outside its bounds a joint may stay, a little less
# than checks.check_skeleton allows; and the length of a bone that would have none.
_MARGIN = 0.099
_SHORTEST = 0.01
# The length of a leaf, which has no joint at its end, as a share of its parent's bone.
_LEAF = 0.5


def skeleton_within(mesh: Mesh, joints: Points, parents: Int, names: tuple[str, ...]) -> Skeleton:
    """A skeleton of joints (J, 3), metres, +Y up, with parents (J,), parents first.

    Joints far outside the mesh are brought to its padded bounds. A bone with children ends in the
    one that continues it most straight; a leaf goes on as its parent did. Raises UnfitInputError
    for fewer than two joints.
    """
    if len(joints) < FEWEST_JOINTS:
        raise UnfitInputError("UniRig found fewer than two joints in the model.")
    margin = _MARGIN * mesh.extent
    low, high = mesh.vertices.min(axis=0) - margin, mesh.vertices.max(axis=0) + margin
    heads = np.clip(joints, low, high).astype(np.float32)
    tails = _tails(heads.astype(np.float64), parents, _SHORTEST * mesh.extent)
    return Skeleton(names, parents.astype(np.int32), heads, tails.astype(np.float32))


def _tails(heads: Points, parents: Int, shortest: float) -> Points:
    tails = np.empty_like(heads)
    up = np.array([0.0, shortest, 0.0])
    for joint, head in enumerate(heads):
        inward = head - heads[parents[joint]] if joint else np.zeros(3)
        children = np.flatnonzero(parents == joint)
        tails[joint] = _straightest(head, inward, heads[children], head + _LEAF * inward)
        if np.linalg.norm(tails[joint] - head) < 1e-3 * shortest:
            tails[joint] = head + up
    return tails


def _straightest(head: Points, inward: Points, ends: Points, leaf: Points) -> Points:
    """Of the ends (n, 3) that a bone can have the one most in line; leaf where there are none."""
    if not len(ends):
        return leaf
    outward = ends - head
    lengths = np.maximum(np.linalg.norm(outward, axis=1), np.finfo(np.float64).tiny)
    return np.asarray(ends[np.argmax(outward @ inward / lengths)])
