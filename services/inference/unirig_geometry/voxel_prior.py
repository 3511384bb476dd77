"""What the skinning network is told in advance: which joints are near through the solid."""

from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial import KDTree

from services.inference.geometric.surface import Indices, Points
from services.inference.geometry import Float
from services.inference.unirig_geometry.voxel_fill import filled_between_depths, voxel_centres

GRID = 196
# Bulky models have millions of voxels: they get a coarser grid, so that memory is bounded, and so
# is the time, which grows with voxels times joints.
_MOST_VOXELS = 1_000_000
_FEWEST_VOXELS = 50_000
_MOST_VISITS = 60_000_000
# So does a soup of triangles that each cross the whole model: pixels that are looked at for each.
_MOST_PIXELS = 300_000_000
# A way through the voxels counts this many times its length, so that it follows the surface where
# it can.
_VOXEL_WEIGHT = 3.0
# Vertices that are closer than this hang together although no edge says so.
_SAME_PLACE = 1e-5
_LOOKED_AT = 3
_SLACK = 1.001
_LINEAR = 0.5
_SHORTEST = 1e-6
_NEAREST_JOINTS = 3


def voxel_prior(
    vertices: Float, faces: Indices, joints: Float, progress: Callable[[float], None]
) -> Points:
    """How near each joint is to each vertex through the solid, (N, J) float64; rows sum to 1.

    vertices: (N, 3) float32. faces: (F, 3). joints: (J, 3) float32. The same frame, any scale.
    progress is called with the share done, 0..1.
    """
    places, targets = in_own_cube(vertices, joints)
    centres, side = _solid_voxels(places, faces, len(joints))
    distances = geodesic_distances(places, faces, targets, centres, side, progress)
    return nearness(distances)


def in_own_cube(vertices: Float, joints: Float) -> tuple[Points, Points]:
    """Both where the longest side of the vertices' own bounding box goes from -1 to 1."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    middle, half = (low + high) / 2, (high - low).max() / 2
    places, targets = (vertices - middle) / half, (joints - middle) / half
    return places.astype(np.float64), targets.astype(np.float64)


def _solid_voxels(vertices: Points, faces: Indices, joint_count: int) -> tuple[Points, float]:
    """The centres (M, 3) of the voxels inside, and their side, in the cube from -1 to 1."""
    most = max(_FEWEST_VOXELS, min(_MOST_VOXELS, _MOST_VISITS // joint_count))
    width, depth, height = (np.ptp(vertices[faces], axis=1) / 2).T
    seen = 2.0 * float((width * depth + depth * height + height * width).sum())
    grid = min(GRID, int(np.sqrt(_MOST_PIXELS / max(seen, 1.0))))
    filled = filled_between_depths(vertices, faces, grid)
    while (count := int(filled.sum())) > most:
        grid = int(grid * min(0.95, (most / count) ** (1 / 3)))
        filled = filled_between_depths(vertices, faces, grid)
    return voxel_centres(filled), 2.0 / grid


def geodesic_distances(
    vertices: Points,
    faces: Indices,
    joints: Points,
    centres: Points,
    side: float,
    progress: Callable[[float], None],
) -> Points:
    """The shortest way from each joint to each vertex over edges and through voxels, (N, J).

    centres: (M, 3), voxels of the given side; M may be 0. A joint starts from the vertex or voxel
    nearest to it. Vertices that no joint reaches are as far as the nearest joints in a straight
    line; whatever is not reached otherwise is as far as the farthest thing that is.
    """
    graph = _graph(vertices, faces, centres, side)
    _, starts = KDTree(np.concatenate([vertices, centres])).query(joints)
    distances = np.empty((len(vertices), len(joints)))
    for joint, start in enumerate(starts):
        progress(joint / len(joints))
        ways = csgraph.dijkstra(graph, directed=False, indices=start)
        distances[:, joint] = ways[: len(vertices)]
    lost = np.isinf(distances).all(axis=1)
    count = min(_NEAREST_JOINTS, len(joints))
    straight, nearest = KDTree(joints).query(vertices[lost], k=range(1, count + 1))
    rows = np.full((int(lost.sum()), len(joints)), np.inf)
    np.put_along_axis(rows, nearest, straight, axis=1)
    distances[lost] = rows
    reached = np.isfinite(distances)
    distances[~reached] = distances[reached].max()
    return distances


def nearness(distances: Points) -> Points:
    """From distances (N, J) to shares of 1 that fall steeply with them."""
    far = np.maximum(distances, _SHORTEST)
    near = 1.0 / ((1.0 - _LINEAR) * far + _LINEAR * far**2) ** 2
    return np.asarray(near / near.sum(axis=1, keepdims=True))


def _graph(vertices: Points, faces: Indices, centres: Points, side: float) -> sparse.csr_array:
    """Vertices, then voxels: what touches what, and how far it is; each pair in one direction."""
    count = len(vertices)
    tree = KDTree(vertices)
    neighbours = _neighbours(centres, side) + count
    # Bounded, as the middle of a ball is about as far from every vertex: a search without end.
    gap, nearest = tree.query(centres, distance_upper_bound=_SLACK * side)
    touching = (gap > 0.0) & np.isfinite(gap)
    close = _close_pairs(vertices, tree)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    links = (
        (*neighbours.T, _VOXEL_WEIGHT * _lengths(centres, neighbours - count)),
        (np.flatnonzero(touching) + count, nearest[touching], gap[touching]),
        (*close.T, _lengths(vertices, close)),
        (*edges.T, _lengths(vertices, edges)),
    )
    start, end, length = (np.concatenate(parts) for parts in zip(*links, strict=True))
    total = count + len(centres)
    return sparse.csr_array((length, (start, end)), shape=(total, total))


def _neighbours(centres: Points, side: float) -> Indices:
    """The pairs (n, 2) of voxels that share a face."""
    if not len(centres):
        return np.empty((0, 2), dtype=np.int64)
    cells = np.round((centres - centres.min(axis=0)) / side).astype(np.int64)
    number = np.full(cells.max(axis=0) + 2, -1, dtype=np.int64)
    number[tuple(cells.T)] = np.arange(len(cells))
    pairs = []
    for step in np.eye(3, dtype=np.int64):
        beyond = number[tuple((cells + step).T)]
        pairs.append(np.stack([np.flatnonzero(beyond >= 0), beyond[beyond >= 0]], axis=1))
    return np.concatenate(pairs)


def _close_pairs(vertices: Points, tree: KDTree) -> Indices:
    """The pairs (n, 2) of a vertex and one of the two next to it that is in about its place."""
    looked_at = min(_LOOKED_AT, len(vertices))
    gap, near = tree.query(vertices, k=range(1, looked_at + 1))
    start = np.broadcast_to(np.arange(len(vertices))[:, None], near.shape)
    close = (gap < _SLACK * _SAME_PLACE) & (near != start)
    return np.stack([start[close], near[close]], axis=1)


def _lengths(points: Points, pairs: Indices) -> Points:
    return np.asarray(np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1))
