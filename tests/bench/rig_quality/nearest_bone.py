"""The simplest skinning there is: every vertex follows the nearest bone."""

import numpy as np

from services.inference.geometry import Mesh, Skeleton, SkinWeights


def nearest_bone(mesh: Mesh, skeleton: Skeleton) -> SkinWeights:
    """One influence for every vertex. A joint owns its bone and the ways to all its children."""
    best = np.full(len(mesh.vertices), np.inf)
    joints = np.zeros((len(mesh.vertices), 1), np.int32)
    segments = [(j, skeleton.heads[j], skeleton.tails[j]) for j in range(len(skeleton.names))]
    segments += [
        (int(parent), skeleton.heads[parent], skeleton.heads[joint])
        for joint, parent in enumerate(skeleton.parents)
        if parent >= 0
    ]
    for joint, start, end in segments:
        axis = (end - start).astype(np.float64)
        offsets = mesh.vertices - start
        along = (offsets @ axis / max(float(axis @ axis), 1e-30)).clip(0, 1)
        distances = np.linalg.norm(offsets - along[:, None] * axis, axis=1)
        nearer = distances < best
        best[nearer], joints[nearer] = distances[nearer], joint
    return SkinWeights(joints, np.ones_like(joints, np.float32))
