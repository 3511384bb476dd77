"""How far points are from bones through the solid (Dionne and de Lasa 2013, section 4)."""

from collections.abc import Callable

import numpy as np
from scipy.sparse import csgraph
from scipy.spatial import KDTree

from services.inference.geometric.bone_segments import BoneSegments
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Points
from services.inference.geometric.voxel_graph import voxel_graph


def geodesic_distances(
    points: Points, solid: Solid, bones: BoneSegments, progress: Callable[[float], None]
) -> Points:
    """The way from each joint's bones to each point (n, joints), body units.

    Points and bones may lie anywhere: each is as far as the solid cell nearest to it. Joints
    without bones are infinitely far; no row is all infinite.
    """
    centres = solid.centres
    cells = KDTree(centres)
    graph = voxel_graph(solid.filled, solid.cell)
    _, nearest = cells.query(points)
    distances = np.full((len(points), bones.count), np.inf)
    for joint in range(bones.count):
        progress(joint / bones.count)
        of_joint = np.flatnonzero(bones.joints == joint)
        if not len(of_joint):
            continue
        line = np.concatenate(
            [_samples(bones.heads[piece], bones.tails[piece], solid.cell) for piece in of_joint]
        )
        outside, seeds = cells.query(line)
        through = csgraph.dijkstra(graph, indices=np.unique(seeds), min_only=True)
        distances[:, joint] = through[nearest] + max(0.0, float(outside.min()) - solid.cell)
    return distances


def _samples(head: Points, tail: Points, spacing: float) -> Points:
    count = max(2, int(np.ceil(float(np.linalg.norm(tail - head)) / spacing)) + 1)
    return np.asarray(head + np.linspace(0.0, 1.0, count)[:, None] * (tail - head))
