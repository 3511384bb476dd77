"""The solid as a graph: which cells touch, and how far apart they are."""

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial import KDTree

from services.inference.geometric.solid import Bits
from services.inference.geometric.surface import Indices, Points


def voxel_graph(filled: Bits, cell: float) -> sparse.csr_array:
    """The distances between the centres of touching filled cells, symmetric (n, n), body units.

    Cells are counted in the order of numpy.argwhere. Cells that touch in a face, an edge or a
    corner are neighbours; pieces that touch nowhere are joined by the shortest bridges.
    """
    index = np.full(filled.shape, -1, dtype=np.int64)
    index[filled] = np.arange(int(filled.sum()))
    rows, columns, lengths = [], [], []
    for step in np.argwhere(np.ones((3, 3, 3))) - 1:
        if tuple(step) <= (0, 0, 0):
            continue
        here, there = _overlap(step, filled.shape)
        both = (index[here] >= 0) & (index[there] >= 0)
        rows.append(index[here][both])
        columns.append(index[there][both])
        lengths.append(np.full(int(both.sum()), cell * float(np.linalg.norm(step))))
    row, column, length = map(np.concatenate, (rows, columns, lengths))
    count = int(filled.sum())
    upper = sparse.csr_array((length, (row, column)), shape=(count, count))
    return _bridged(upper + upper.T, np.argwhere(filled) * cell)


def _overlap(step: Indices, shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The slices of a grid whose cells are a step apart: from, to."""
    pairs = [
        (slice(max(0, -s), min(n, n - s)), slice(max(0, s), min(n, n + s)))
        for s, n in zip(step, shape, strict=True)
    ]
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)


def _bridged(graph: sparse.csr_array, points: Points) -> sparse.csr_array:
    """Join the pieces of a graph, each to the nearest part of what hangs together already."""
    pieces, labels = csgraph.connected_components(graph, directed=False)
    if pieces == 1:
        return graph
    joined = labels == np.bincount(labels).argmax()
    rows, columns, lengths = [], [], []
    while not joined.all():
        loose = np.flatnonzero(~joined)
        distances, nearest = KDTree(points[joined]).query(points[loose])
        closest = int(distances.argmin())
        rows.append(int(loose[closest]))
        columns.append(int(np.flatnonzero(joined)[nearest[closest]]))
        lengths.append(float(distances[closest]))
        joined |= labels == labels[loose[closest]]
    bridges = sparse.csr_array((lengths, (rows, columns)), shape=graph.shape)
    return sparse.csr_array(graph + bridges + bridges.T)
