"""From the joints of a file to a Skeleton and SkinWeights: one root, parents first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from services.inference.geometry import Skeleton, SkinWeights

INFLUENCES = 4


def joint_tree(
    names: Sequence[str],
    parents: Sequence[int],
    heads: npt.NDArray[Any],
    tips: npt.NDArray[Any],
) -> tuple[Skeleton, npt.NDArray[np.int32], list[str]]:
    """The joints in the file's order, made parents-first, under one root.

    names: J names as the file gives them; repeated ones get a number.
    parents: J indices, -1 for a root; no cycles.
    heads: (J, 3) metres. tips: (J, 3) metres, the bones' far ends, NaN where the file has none.

    Returns the skeleton, (J,) each given joint's index in it, and notes for the user. Several
    roots are joined under a new joint in their middle.
    """
    order = _parents_first(parents)
    roots = [joint for joint in order if parents[joint] < 0]
    shift = 1 if len(roots) > 1 else 0
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order)) + shift
    above = [int(place[parents[j]]) if parents[j] >= 0 else shift - 1 for j in order]
    ordered_names = [names[j] or f"joint_{j}" for j in order]
    ordered_heads, ordered_tips = heads[order], tips[order]
    notes = []
    if shift:
        above.insert(0, -1)
        ordered_names.insert(0, "root")
        ordered_heads = np.vstack([heads[roots].mean(axis=0), ordered_heads])
        ordered_tips = np.vstack([np.full(3, np.nan), ordered_tips])
        notes.append(f"The skeleton has {len(roots)} roots; they were joined under a new one.")
    parent_array = np.array(above, np.int32)
    skeleton = Skeleton(
        names=_unique(ordered_names),
        parents=parent_array,
        heads=ordered_heads.astype(np.float32),
        tails=_tails(parent_array, ordered_heads, ordered_tips).astype(np.float32),
    )
    return skeleton, place, notes


def _parents_first(parents: Sequence[int]) -> list[int]:
    order: list[int] = []
    done: set[int] = set()
    for joint in range(len(parents)):
        chain = []
        while joint >= 0 and joint not in done:
            done.add(joint)
            chain.append(joint)
            joint = parents[joint]
        order += reversed(chain)
    return order


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    taken: dict[str, None] = {}
    for name in names:
        candidate, number = name, 1
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken[candidate] = None
    return tuple(taken)


def _tails(
    parents: npt.NDArray[np.int32],
    heads: npt.NDArray[Any],
    tips: npt.NDArray[Any],
) -> npt.NDArray[Any]:
    """(J, 3) the head of the child that carries the bone on, or the tip of a leaf.

    Where a joint has several children: the one nearest to the tip the file gives; else the one
    that goes straight on; for a root the one with the largest subtree. A leaf without a tip is
    half as long as its parent, in its parent's direction.
    """
    count = len(parents)
    children: list[list[int]] = [[] for _ in range(count)]
    size = np.ones(count, int)
    for joint in range(count - 1, 0, -1):
        children[parents[joint]].insert(0, joint)
        size[parents[joint]] += size[joint]
    reach = max(float(np.ptp(heads, axis=0).max()), 1e-3)
    tails = np.array(heads)
    for joint in range(count):
        inward = heads[joint] - heads[parents[joint]] if joint else np.zeros(3)
        below = children[joint]
        if not below:
            guess = inward / 2 if np.linalg.norm(inward) > 1e-6 * reach else (0, reach / 10, 0)
            tails[joint] = tips[joint] if np.isfinite(tips[joint]).all() else heads[joint] + guess
        elif np.isfinite(tips[joint]).all():
            tails[joint] = heads[min(below, key=lambda c: np.linalg.norm(heads[c] - tips[joint]))]
        elif joint and np.linalg.norm(inward) > 0:
            onward = [heads[c] - heads[joint] for c in below]
            straight = [v @ inward / max(float(np.linalg.norm(v)), 1e-12) for v in onward]
            tails[joint] = heads[below[int(np.argmax(straight))]]
        else:
            tails[joint] = heads[max(below, key=lambda c: size[c])]
    return tails


def strongest(
    joints: npt.NDArray[Any], weights: npt.NDArray[Any], influences: int = INFLUENCES
) -> SkinWeights:
    """The strongest influences of each vertex, summing to 1, strongest first.

    joints, weights: (N, K); weights may have any scale, and a joint may come more than once in a
    row. A vertex without any weight follows joint 0.
    """
    weights = np.where(np.isfinite(weights) & (weights > 0), weights, 0.0)
    joints, weights = _without_repeats(np.asarray(joints), weights)
    order = np.argsort(-weights, axis=1, kind="stable")[:, :influences]
    weights = np.take_along_axis(weights, order, axis=1).astype(np.float64)
    joints = np.take_along_axis(joints, order, axis=1)
    total = weights.sum(axis=1)
    weights[total <= 0, 0] = 1.0
    joints = np.where((total <= 0)[:, None], 0, joints)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return SkinWeights(np.where(weights > 0, joints, 0).astype(np.int32), weights)


def _without_repeats(
    joints: npt.NDArray[Any], weights: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    order = np.argsort(joints, axis=1, kind="stable")
    joints = np.take_along_axis(joints, order, axis=1)
    weights = np.take_along_axis(weights, order, axis=1)
    for column in range(joints.shape[1] - 1, 0, -1):
        same = joints[:, column] == joints[:, column - 1]
        weights[:, column - 1] += np.where(same, weights[:, column], 0.0)
        weights[:, column] = np.where(same, 0.0, weights[:, column])
    return joints, weights


def says_something(skin: SkinWeights, joint_count: int) -> bool:
    """False where all vertices hang on one joint of several: a skeleton without skinning."""
    used = np.unique(skin.joints[skin.weights > 0])
    return joint_count == 1 or len(used) > 1
