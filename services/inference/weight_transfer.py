"""Brings the weights of one file onto the skeleton of a second and the mesh of a third."""

import numpy as np
from scipy.spatial import KDTree

from services.inference.geometry import Int, Mesh, Skeleton, SkinWeights

# Meshes that lie farther apart than this share of the longest side are different models.
_APART = 0.05
_NAMES_SHOWN = 5


def match_joints(skinned: Skeleton, skin: SkinWeights, skeleton: Skeleton) -> Int:
    """(J,) int32: for each joint of the skinned file its index in skeleton, -1 where it has none.

    Joints match by name; where names differ, two skeletons of the same shape match by order. Raises
    ValueError, in words for the user, where a joint that moves vertices has no match.
    """
    index = {name: number for number, name in enumerate(skeleton.names)}
    matches = np.array([index.get(name, -1) for name in skinned.names], np.int32)
    moving = np.unique(skin.joints[skin.weights > 0])
    missing = moving[matches[moving] < 0]
    if len(missing) == 0:
        return matches
    if np.array_equal(skinned.parents, skeleton.parents):
        return np.arange(len(skinned.names), dtype=np.int32)
    names = _listed([skinned.names[joint] for joint in missing])
    raise ValueError(
        f"The skinning moves joints that the skeleton does not have: {names}. "
        "Skin this skeleton, or merge the skeleton that was skinned."
    )


def joints_without_skin(skinned: Skeleton, skeleton: Skeleton, matches: Int) -> str | None:
    """A note for the user where the skeleton has joints that the skinning never knew."""
    unknown = sorted(set(range(len(skeleton.names))) - set(matches.tolist()))
    if not unknown or len(skinned.names) >= len(skeleton.names):
        return None
    names = _listed([skeleton.names[joint] for joint in unknown])
    return f"No vertex follows these joints, which the skinning file does not have: {names}."


def transfer_weights(source: Mesh, skin: SkinWeights, matches: Int, target: Mesh) -> SkinWeights:
    """The weights of each target vertex: those of the nearest source vertex in rest pose.

    skin: of source. matches: as match_joints gives them. Raises ValueError, in words for the user,
    where the meshes do not lie over each other.
    """
    joints = np.where(skin.weights > 0, matches[skin.joints], 0).astype(np.int32)
    if np.array_equal(source.vertices, target.vertices):
        return SkinWeights(joints, skin.weights)
    distances, nearest = KDTree(source.vertices).query(target.vertices)
    if np.percentile(distances, 95) > _APART * min(source.extent, target.extent):
        raise ValueError(
            "The skinning was made for another model: its mesh does not lie over the asset's. "
            "Check that both have the same size, place and pose."
        )
    return SkinWeights(joints[nearest], skin.weights[nearest])


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    rest = len(names) - _NAMES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
