"""Loose pieces of a surface that move as one: eyes and buttons, and things that are carried."""

import igl
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from services.inference.geometric.bone_sight import BoneSight
from services.inference.geometric.surface import Indices, Points

# A piece no larger than this, such as an eye or a button, is a crumb; body units.
_CRUMB = 0.08
# A piece has bones of its own if this share of its vertices has one behind it.
_BACKED = 0.1
# What touches with more of its vertices than this is worn, like a sleeve, and bends.
_WORN = 0.25
# A thing hangs from where it touches at most this share of its height below the uppermost place.
_HANGS = 0.1


def rigid_pieces(
    vertices: Points, faces: Indices, sight: BoneSight, weights: Points, reach: float
) -> Points:
    """The weights (n, joints), the same for all vertices of a piece that moves as one.

    reach: how far beyond its nearest point a piece still touches, body units.
    """
    piece = _pieces(len(vertices), faces)
    small = _extents(vertices, piece) <= _CRUMB
    boneless = np.bincount(piece, sight.backed) < _BACKED * np.bincount(piece)
    body = faces[~boneless[piece[faces[:, 0]]]]
    carried = np.flatnonzero((boneless & ~small)[piece])
    result = weights.copy()
    if small.any() and not small.all():
        for crumb in _groups(piece, np.flatnonzero(small[piece])):
            result[crumb] = weights[crumb].mean(axis=0)
    if not len(body) or not len(carried):
        return result
    squared, face, _ = igl.point_mesh_squared_distance(vertices[carried], vertices, body)
    distance = np.zeros(len(vertices))
    distance[carried] = np.sqrt(squared)
    touched = np.zeros(weights.shape)
    touched[carried] = weights[body[face]].mean(axis=1)
    for thing in _groups(piece, carried):
        held = _held(vertices[thing, 1], distance[thing], touched[thing], reach)
        if held is not None:
            result[thing] = held
    return result


def _pieces(count: int, faces: Indices) -> Indices:
    """For each vertex (n,) which connected piece of the surface it belongs to."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    links = sparse.csr_array((np.ones(len(edges)), edges.T), shape=(count, count))
    return np.asarray(csgraph.connected_components(links, directed=False)[1], dtype=np.int64)


def _extents(vertices: Points, piece: Indices) -> Points:
    """The longest side of each piece's box, body units."""
    count = int(piece.max()) + 1
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, piece, vertices)
    np.maximum.at(high, piece, vertices)
    return np.asarray((high - low).max(axis=1))


def _groups(piece: Indices, chosen: Indices) -> list[Indices]:
    """The chosen vertices of each piece that has any."""
    order = chosen[np.argsort(piece[chosen], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(piece[order])) + 1)


def _held(heights: Points, distances: Points, touched: Points, reach: float) -> Points | None:
    """The weights (joints,) of a thing without bones, or None if the body wears it.

    heights, distances to the body: (n,) of its vertices. touched: (n, joints) the body's weights
    where it is nearest to them.

    A thing lies on all places where it touches the body if they are below its middle; else it
    hangs from the uppermost, as a cape does from the shoulders. It follows one joint where that
    has more than half of them.
    """
    touching = distances <= distances.min() + reach
    if touching.mean() > _WORN:
        return None
    top = heights[touching].max()
    if top > heights.mean():
        touching &= heights >= top - _HANGS * np.ptp(heights)
    mean = touched[touching].mean(axis=0)
    return np.where(mean == mean.max(), 1.0, 0.0) if mean.max() > 0.5 else mean
