"""What every rig must fulfil before it is published, whichever engine made it."""

import numpy as np

from services.inference.geometry import Mesh, Skeleton, SkinWeights

# Joints may lie this share of the model's longest side outside its bounding box.
_PADDING = 0.1
_SUM_TOLERANCE = 1e-3


def check_skeleton(mesh: Mesh, skeleton: Skeleton) -> None:
    """Raise ValueError, naming the broken rule, unless the skeleton is a tree within the mesh."""
    check_tree(skeleton)
    margin = _PADDING * mesh.extent
    low = mesh.vertices.min(axis=0) - margin
    high = mesh.vertices.max(axis=0) + margin
    outside = ((skeleton.heads < low) | (skeleton.heads > high)).any(axis=1)
    if outside.any():
        name = skeleton.names[int(outside.argmax())]
        raise ValueError(f"Joint {name!r} lies outside the padded bounds of the mesh.")


def check_tree(skeleton: Skeleton) -> None:
    """Raise ValueError unless the joints are one tree, parents first, with finite places."""
    count = len(skeleton.names)
    if count == 0:
        raise ValueError("The skeleton has no joints.")
    if skeleton.parents.shape != (count,):
        raise ValueError("The skeleton does not have one parent for each joint.")
    if skeleton.heads.shape != (count, 3) or skeleton.tails.shape != (count, 3):
        raise ValueError("The skeleton does not have one head and one tail for each joint.")
    if skeleton.parents[0] != -1 or (skeleton.parents[1:] < 0).any():
        raise ValueError("The skeleton does not have exactly one root, its first joint.")
    if (skeleton.parents >= np.arange(count)).any():
        raise ValueError("A joint of the skeleton comes before its parent.")
    if not all(skeleton.names):
        raise ValueError("A joint of the skeleton has no name.")
    if len(set(skeleton.names)) != count:
        raise ValueError("Two joints of the skeleton have the same name.")
    if not (np.isfinite(skeleton.heads).all() and np.isfinite(skeleton.tails).all()):
        raise ValueError("A joint of the skeleton is not at a finite place.")


def check_weights(mesh: Mesh, skeleton: Skeleton, skin: SkinWeights, max_influences: int) -> None:
    """Raise ValueError, naming the broken rule, unless every vertex follows known joints fully."""
    if skin.joints.ndim != 2 or skin.joints.shape != skin.weights.shape:
        raise ValueError("The skin does not have one weight for each influence.")
    if len(skin.joints) != len(mesh.vertices):
        raise ValueError("The skin does not have one row for each vertex of the mesh.")
    if skin.joints.size and not (
        skin.joints.min() >= 0 and skin.joints.max() < len(skeleton.names)
    ):
        raise ValueError("The skin refers to joints that the skeleton does not have.")
    if not np.isfinite(skin.weights).all():
        raise ValueError("A skin weight is not a finite number.")
    if (skin.weights < 0.0).any():
        raise ValueError("A skin weight is negative.")
    if ((skin.weights > 0.0).sum(axis=1) > max_influences).any():
        raise ValueError(f"A vertex has more than {max_influences} influences.")
    if (np.abs(skin.weights.sum(axis=1, dtype=np.float64) - 1.0) > _SUM_TOLERANCE).any():
        raise ValueError("The skin weights of a vertex do not sum to 1.")
