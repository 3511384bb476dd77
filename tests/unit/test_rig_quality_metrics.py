"""What the benchmark of rigs measures, against values worked out by hand."""

import numpy as np
import pytest

from services.inference.geometry import Mesh, Skeleton, SkinWeights
from tests.bench.rig_quality.metrics import (
    dense_weights,
    joint_scores,
    posed,
    random_poses,
    stretch,
    unweighted,
    weight_scores,
)
from tests.generated_bodies import chain_of, triangles

QUARTER_TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def joint_at(x: float, y: float) -> Skeleton:
    return chain_of((x, y, 0), (x, y + 1, 0))


def strip() -> Mesh:
    return triangles([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]])


def test_a_skeleton_is_at_no_distance_from_itself() -> None:
    skeleton = chain_of((0, 0, 0), (0, 1, 0), (0, 2, 0))
    scores = joint_scores(skeleton, skeleton, 2.0)
    assert (scores.j2j, scores.j2b, scores.b2b, scores.iou) == (0, 0, 0, 1)


def test_a_skeleton_moved_aside_is_as_far_away_as_it_was_moved() -> None:
    reference = chain_of((0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0))
    moved = chain_of((0.1, 0, 0), (0.1, 1, 0), (0.1, 2, 0), (0.1, 3, 0))
    scores = joint_scores(moved, reference, 4.0)
    assert scores.j2j == pytest.approx(2.5)
    assert scores.j2b == pytest.approx(2.5)
    assert scores.b2b == pytest.approx(2.5)
    assert scores.iou == 1


def test_joints_that_one_side_lacks_count_from_the_other_side_only() -> None:
    # Joints at 0 and 2 against 0, 1 and 2: from the first side 0, from the other (0 + 1 + 0) / 3.
    predicted = chain_of((0, 0, 0), (0, 2, 0), (0, 3, 0))
    reference = chain_of((0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0))
    scores = joint_scores(predicted, reference, 10.0)
    assert scores.j2j == pytest.approx(100 * (0 + 1 / 3) / 2 / 10)
    # The missing joint lies on the predicted bone, and the bones cover each other.
    assert scores.j2b == pytest.approx(0)
    assert scores.b2b == pytest.approx(0)
    # Two of two and two of three match.
    assert scores.iou == pytest.approx(2 * 2 / 5)


def test_joints_match_one_to_one_and_only_within_a_twentieth() -> None:
    reference = joint_at(0, 0)
    assert joint_scores(joint_at(0.049, 0), reference, 1.0).iou == 1
    assert joint_scores(joint_at(0.051, 0), reference, 1.0).iou == 0
    twins = chain_of((0.01, 0, 0), (0.02, 0, 0), (0.03, 0, 0))
    assert joint_scores(twins, reference, 1.0).iou == pytest.approx(2 / 3)


def test_a_single_joint_is_its_own_bone() -> None:
    scores = joint_scores(joint_at(0.1, 0), joint_at(0, 0), 1.0)
    assert scores.b2b == pytest.approx(10)


def test_weights_are_compared_influence_by_influence() -> None:
    mesh, skeleton = strip(), chain_of((0, 0, 0), (1, 0, 0), (2, 0, 0))
    reference = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    predicted = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    scores = weight_scores(mesh, skeleton, predicted, reference)
    assert scores.l1 == pytest.approx((0 + 1 + 1) / 3)
    # Of the four predicted influences three are right; the reference has four.
    assert scores.precision == pytest.approx(3 / 4)
    assert scores.recall == pytest.approx(3 / 4)


def test_a_trace_of_weight_is_no_influence() -> None:
    mesh, skeleton = strip(), chain_of((0, 0, 0), (1, 0, 0), (2, 0, 0))
    reference = np.array([[1.0, 0.0]] * 3)
    predicted = np.array([[0.99995, 0.00005]] * 3)
    assert weight_scores(mesh, skeleton, predicted, reference).precision == 1


def test_the_deformation_error_is_the_mean_way_between_the_posed_vertices() -> None:
    mesh, skeleton = strip(), chain_of((0, 0, 0), (1, 0, 0), (2, 0, 0))
    reference = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    rigid = np.array([[1.0, 0.0]] * 3)
    # Only the last vertex differs: at rest with one, turned about (1, 0, 0) with the other.
    ways = [
        np.linalg.norm(turns[1] @ np.array([1.0, 0, 0]) - np.array([1.0, 0, 0]))
        for turns in random_poses(2)
    ]
    error = weight_scores(mesh, skeleton, rigid, reference).deformation
    assert error == pytest.approx(100 * np.mean(ways) / 3 / 2)
    assert error > 0
    assert weight_scores(mesh, skeleton, reference, reference).deformation == 0


def test_a_posed_chain_carries_its_children_along() -> None:
    skeleton = chain_of((0, 0, 0), (1, 0, 0), (2, 0, 0))
    weights = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    turns = np.stack([QUARTER_TURN, QUARTER_TURN])
    moved = posed(strip().vertices, skeleton, weights, turns)
    # The tip goes up to (0, 2) with the root, and about (0, 1) with its own joint.
    np.testing.assert_allclose(moved, [[0, 0, 0], [0, 1, 0], [-1, 1, 0]], atol=1e-12)


def test_what_follows_no_joint_stays_and_is_counted() -> None:
    skeleton = chain_of((0, 0, 0), (1, 0, 0))
    weights = np.array([[1.0], [0.0], [1.0]])
    moved = posed(strip().vertices, skeleton, weights, QUARTER_TURN[None])
    np.testing.assert_allclose(moved, [[0, 0, 0], [1, 0, 0], [0, 2, 0]], atol=1e-12)
    assert unweighted(weights) == 1


def test_a_rigid_body_does_not_stretch_and_a_torn_one_does() -> None:
    mesh = triangles([[0, 0, 0], [1, 0, 0], [1, 1, 0]], [[0, 1, 2]])
    skeleton = chain_of((0, 0, 0), (1, 0, 0), (2, 0, 0))
    assert stretch(mesh, skeleton, np.array([[0.0, 1.0]] * 3)) == pytest.approx(0, abs=1e-5)
    torn = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # The edges at the third corner change; the one between the others does not.
    lengths = np.array([1, 1, 2**0.5])
    squares = []
    for turns in random_poses(2):
        third = np.array([1, 0, 0]) + turns[1] @ np.array([0, 1, 0])
        after = [1, np.linalg.norm(third - [1, 0, 0]), np.linalg.norm(third)]
        squares.append((after / lengths - 1) ** 2)
    expected = 100 * np.sqrt((np.mean(squares, axis=0) * lengths).sum() / lengths.sum())
    assert stretch(mesh, skeleton, torn) == pytest.approx(expected)


def test_weights_become_dense_with_zeros_where_nothing_is_followed() -> None:
    skin = SkinWeights(
        np.array([[2, 0], [1, 1], [0, 0]], np.int32),
        np.array([[0.75, 0.25], [0.5, 0.5], [0, 0]], np.float32),
    )
    np.testing.assert_array_equal(dense_weights(skin, 3), [[0.25, 0, 0.75], [0, 1, 0], [0, 0, 0]])


def test_random_poses_are_the_same_each_time_and_turn_no_root() -> None:
    poses = random_poses(3)
    np.testing.assert_array_equal(poses, random_poses(3))
    np.testing.assert_allclose(poses[:, 0], np.tile(np.eye(3), (len(poses), 1, 1)))
    angles = np.arccos((np.trace(poses[:, 1:], axis1=2, axis2=3) - 1) / 2)
    assert 0 < angles.max() <= np.radians(30)
    np.testing.assert_allclose(
        poses[:, 2] @ poses[:, 2].transpose(0, 2, 1), [np.eye(3)] * 10, atol=1e-12
    )
