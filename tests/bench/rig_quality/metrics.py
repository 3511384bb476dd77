"""How near a rig comes to a reference.

Distances are given in percent of the model's longest side. J2J, J2B, B2B and the joints' IoU are
those of RigNet (Xu et al. 2020), which UniRig reports too; a bone runs from a joint to its child's.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from services.inference.geometry import Mesh, Skeleton, SkinWeights

Points = npt.NDArray[np.float64]

# Shares of the longest side.
_BONE_STEP = 0.005
_MATCH = 0.05
# What counts as an influence (RigNet).
_INFLUENCE = 1e-4
_POSES = 10
_POSE_SEED = 0
_LARGEST_TURN = np.radians(30)
# Blending dense matrices takes 96 bytes a vertex.
_VERTICES_AT_ONCE = 100_000


@dataclass(frozen=True)
class JointScores:
    """j2j, j2b, b2b: percent of the longest side. iou: 0..1."""

    j2j: float
    j2b: float
    b2b: float
    iou: float


@dataclass(frozen=True)
class WeightScores:
    """l1: mean over vertices of the sum of absolute differences, 0..2. precision, recall: of the
    influences, 0..1. deformation: mean distance under random poses, percent of the longest side."""

    l1: float
    precision: float
    recall: float
    deformation: float


def joint_scores(predicted: Skeleton, reference: Skeleton, extent: float) -> JointScores:
    """extent: the model's longest side, metres."""
    joints, true_joints = predicted.heads / extent, reference.heads / extent
    bones = _along_bones(joints, predicted.parents)
    true_bones = _along_bones(true_joints, reference.parents)
    return JointScores(
        j2j=50 * (_one_way(joints, true_joints) + _one_way(true_joints, joints)),
        j2b=50 * (_one_way(joints, true_bones) + _one_way(true_joints, bones)),
        b2b=50 * (_one_way(bones, true_bones) + _one_way(true_bones, bones)),
        iou=_joint_iou(joints, true_joints),
    )


def _one_way(points: Points, others: Points) -> float:
    return float(KDTree(others).query(points)[0].mean())


def _along_bones(joints: Points, parents: npt.NDArray[np.int32]) -> Points:
    """Points in even steps along all bones; the joint itself where there is but one."""
    samples = [joints[:1]] if len(joints) == 1 else []
    for joint, parent in enumerate(parents):
        if parent >= 0:
            start, end = joints[parent], joints[joint]
            steps = round(float(np.linalg.norm(end - start)) / _BONE_STEP)
            samples.append(start + np.linspace(0, 1, steps + 1)[:, None] * (end - start))
    return np.concatenate(samples)


def _joint_iou(joints: Points, true_joints: Points) -> float:
    """Twice the joints that match, one to one and within the tolerance, by the number of both."""
    distances = np.linalg.norm(joints[:, None] - true_joints, axis=2)
    matched = distances[linear_sum_assignment(distances)] < _MATCH
    return 2 * int(matched.sum()) / (len(joints) + len(true_joints))


def dense_weights(skin: SkinWeights, joints: int) -> Points:
    """(N, joints); a vertex without weights has a row of zeros."""
    dense = np.zeros((len(skin.joints), joints))
    np.add.at(dense, (np.arange(len(dense))[:, None], skin.joints), skin.weights)
    return dense


def unweighted(weights: Points) -> int:
    """How many vertices follow no joint."""
    return int((weights.sum(axis=1) <= 0).sum())


def weight_scores(
    mesh: Mesh, skeleton: Skeleton, predicted: Points, reference: Points
) -> WeightScores:
    """predicted, reference: dense weights (N, J) of the mesh's vertices for the same skeleton."""
    influences, true_influences = predicted > _INFLUENCE, reference > _INFLUENCE
    common = int((influences & true_influences).sum())
    distances = [
        np.linalg.norm(
            posed(mesh.vertices, skeleton, predicted, turns)
            - posed(mesh.vertices, skeleton, reference, turns),
            axis=1,
        ).mean()
        for turns in random_poses(len(skeleton.names))
    ]
    return WeightScores(
        l1=float(np.abs(predicted - reference).sum(axis=1).mean()),
        precision=common / max(int(influences.sum()), 1),
        recall=common / max(int(true_influences.sum()), 1),
        deformation=100 * float(np.mean(distances)) / mesh.extent,
    )


def stretch(mesh: Mesh, skeleton: Skeleton, weights: Points) -> float:
    """How much edges change their length under the random poses, in percent of it: the root of the
    mean square, each edge counted by its length. It needs no reference; a mesh that does not move
    at all has 0."""
    corners = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    edges = np.unique(np.sort(corners, axis=1), axis=0)
    lengths = _lengths(mesh.vertices.astype(np.float64), edges)
    edges, lengths = edges[lengths > 0], lengths[lengths > 0]
    changes = [
        (_lengths(posed(mesh.vertices, skeleton, weights, turns), edges) / lengths - 1) ** 2
        for turns in random_poses(len(skeleton.names))
    ]
    return 100 * float(np.sqrt(np.average(np.mean(changes, axis=0), weights=lengths)))


def _lengths(points: Points, edges: npt.NDArray[np.int32]) -> Points:
    lengths: Points = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    return lengths


def random_poses(joints: int) -> Points:
    """(P, J, 3, 3) the same turns each time: every joint but the root about an axis of its own, by
    up to 30 degrees, carried along by its parents."""
    random = np.random.default_rng(_POSE_SEED)
    axes = random.normal(size=(_POSES, joints, 3))
    angles = random.uniform(0, _LARGEST_TURN, (_POSES, joints, 1))
    vectors = axes / np.linalg.norm(axes, axis=2, keepdims=True) * angles
    vectors[:, 0] = 0
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(_POSES, joints, 3, 3)


def posed(
    vertices: npt.NDArray[np.float32], skeleton: Skeleton, weights: Points, turns: Points
) -> Points:
    """(N, 3) vertices by linear blend skinning. turns: (J, 3, 3) about world axes, each joint's
    about its head. What follows no joint stays where it is."""
    moves = joint_moves(skeleton, turns)
    result = np.empty((len(vertices), 3))
    for start in range(0, len(vertices), _VERTICES_AT_ONCE):
        rows = slice(start, start + _VERTICES_AT_ONCE)
        blended = np.tensordot(weights[rows], moves, axes=1)
        blended += (1 - weights[rows].sum(axis=1))[:, None, None] * np.eye(3, 4)
        result[rows] = np.einsum("nij,nj->ni", blended[:, :, :3], vertices[rows])
        result[rows] += blended[:, :, 3]
    return result


def joint_moves(skeleton: Skeleton, turns: Points) -> Points:
    """(J, 3, 4) what each joint does to points of the rest pose."""
    moves = np.zeros((len(skeleton.names), 4, 4))
    for joint, parent in enumerate(skeleton.parents):
        own = np.eye(4)
        own[:3, :3] = turns[joint]
        own[:3, 3] = skeleton.heads[joint] - turns[joint] @ skeleton.heads[joint]
        moves[joint] = own if parent < 0 else moves[parent] @ own
    return moves[:, :3]
