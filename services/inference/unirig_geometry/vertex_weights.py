"""From weights at sampled points to the vertices of any mesh in the same place."""

from collections.abc import Iterator

import numpy as np
from scipy.spatial import KDTree

from services.inference.geometric.surface import Indices
from services.inference.geometry import Float, Int, SkinWeights

MAX_INFLUENCES = 4
_NEIGHBOURS = 7
# A sorting network of which only the exchanges that settle the middle of seven are left.
_EXCHANGES = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)
_FALL = 2.0
_LEAST = 0.03
# Numbers that are gathered at once.
_CHUNK = 8_000_000


def vertex_weights(
    points: Float, skin: Float, vertices: Float, faces: Indices, parents: Int
) -> Iterator[tuple[float, Float]]:
    """Dense weights (n, J) float32 for each vertex, chunk by chunk; rows sum to 1.

    points: (P, 3) float32, P >= 7. skin: (P, J) float32, the weights there. vertices: (N, 3)
    float32. faces: (F, 3), whose edges carry weights on to the next vertex. parents: (J,), -1 for
    joint 0, parents first. Yields the share of the vertices that are done before, 0..1, with each
    chunk.

    Each vertex takes the median of its 7 nearest points, and then a step of diffusion along one
    edge: of those that end in it, the last in the order of the faces, as the reference does it.
    """
    tree = KDTree(points)
    sources = _last_edges(faces, len(vertices))
    stride = max(1, _CHUNK // (_NEIGHBOURS * skin.shape[1]))
    for start in range(0, len(vertices), stride):
        chunk = np.arange(start, min(start + stride, len(vertices)))
        needed, places = np.unique(np.concatenate([chunk, sources[chunk]]), return_inverse=True)
        _, nearest = tree.query(vertices[needed], k=_NEIGHBOURS)
        sums = subtree_sums(_medians(skin, nearest), parents)
        here, there = np.split(places, 2)
        lengths = np.linalg.norm(vertices[sources[chunk]] - vertices[chunk], axis=1)
        spread = _diffused(sums[here], sums[there], lengths)
        weights, empty = _thresholded(own_shares(spread, parents))
        weights[empty] = _certain(skin[nearest[here[empty], 0]])
        yield start / len(vertices), weights


def strongest_influences(weights: Float) -> SkinWeights:
    """The 4 strongest of the dense weights (n, J), normalised; each row has a positive one."""
    kept = min(MAX_INFLUENCES, weights.shape[1])
    joints = np.argsort(-weights, axis=1, kind="stable")[:, :kept]
    values = np.take_along_axis(weights, joints, axis=1)
    values /= values.sum(axis=1, keepdims=True)
    missing = ((0, 0), (0, MAX_INFLUENCES - kept))
    return SkinWeights(
        joints=np.pad(np.where(values > 0.0, joints, 0), missing).astype(np.int32),
        weights=np.pad(values, missing).astype(np.float32),
    )


def subtree_sums(weights: Float, parents: Int) -> Float:
    """Each joint's weight (n, J) with those of all joints below it."""
    sums = weights.copy()
    for joint in range(len(parents) - 1, 0, -1):
        sums[:, parents[joint]] += sums[:, joint]
    return sums


def own_shares(sums: Float, parents: Int) -> Float:
    """What subtree_sums was given, from its result (n, J)."""
    own = sums.copy()
    for joint in range(1, len(parents)):
        own[:, parents[joint]] -= own[:, joint]
    return own


def _last_edges(faces: Indices, count: int) -> Indices:
    """For each vertex the start of the last edge that ends in it, itself where there is none."""
    sources = np.arange(count)
    for start, end in ((0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)):
        # Of several values for one element NumPy keeps the last.
        sources[faces[:, end]] = faces[:, start]
    return sources


def _medians(skin: Float, nearest: Indices) -> Float:
    """The median (n, J) of each joint's weights (P, J) at 7 points (n, 7)."""
    rows = [skin[column] for column in nearest.T]
    for a, b in _EXCHANGES:
        rows[a], rows[b] = np.minimum(rows[a], rows[b]), np.maximum(rows[a], rows[b])
    return np.asarray(rows[_NEIGHBOURS // 2])


def _diffused(here: Float, there: Float, lengths: Float) -> Float:
    """here (n, J), with a part of what is there where that is more; lengths (n,) of the edges."""
    share = np.where(there > here, np.exp(-_FALL * lengths)[:, None], np.float32(0.0))
    return np.asarray((here + there * share) / (1.0 + share))


def _thresholded(weights: Float) -> tuple[Float, Indices]:
    """Rows (n, J) without small and negative weights, and which rows have none left.

    Rows in which all weights are small keep the positive ones.
    """
    total = weights.sum(axis=1, keepdims=True)
    normal = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0.0)
    strong = (normal >= _LEAST).any(axis=1, keepdims=True)
    kept = np.where(normal >= np.where(strong, _LEAST, 0.0), normal, np.float32(0.0))
    total = kept.sum(axis=1, keepdims=True)
    normal = np.divide(kept, total, out=np.zeros_like(kept), where=total > 0.0)
    return normal, np.flatnonzero(total[:, 0] <= 0.0)


def _certain(rows: Float) -> Float:
    """Rows (n, J) with all weight on the strongest joint."""
    return np.asarray(np.eye(rows.shape[1], dtype=np.float32)[rows.argmax(axis=1)])
