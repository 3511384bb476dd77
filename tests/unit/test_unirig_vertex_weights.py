"""From weights at sampled points to the vertices of any mesh."""

from pathlib import Path

import numpy as np
import pytest

from services.inference.unirig_geometry import vertex_weights as weighing
from services.inference.unirig_geometry.vertex_weights import (
    own_shares,
    strongest_influences,
    subtree_sums,
    vertex_weights,
)
from services.inference.unirig_network.parity_geometry import vertex_weight_comparisons

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "reskin.pt"
PARENTS = np.array([-1, 0, 1, 1], np.int32)
NO_FACES = np.empty((0, 3), np.int64)


def spread(points: np.ndarray, skin: np.ndarray, vertices: np.ndarray, faces: np.ndarray):  # type: ignore[no-untyped-def]
    chunks = vertex_weights(points, skin, vertices, faces, PARENTS)
    return np.concatenate([weights for _, weights in chunks])


def random_skin(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    points = random.random((count, 3)).astype(np.float32)
    skin = random.random((count, len(PARENTS))).astype(np.float32) ** 4
    return points, skin / skin.sum(axis=1, keepdims=True)


def test_the_weights_match_the_reference() -> None:
    if not GOLDEN.is_file():
        pytest.skip(f"the reference's outputs are not beside the checkout ({GOLDEN})")
    compared = list(vertex_weight_comparisons(GOLDEN))
    assert len(compared) == 1
    assert [str(one) for one in compared if not one.holds] == []


def test_a_vertex_takes_the_median_of_its_seven_nearest_points() -> None:
    points, skin = random_skin(50)
    vertices = points[:5] + np.float32(0.01)
    nearest = np.argsort(np.linalg.norm(vertices[:, None] - points, axis=2), axis=1)[:, :7]
    medians = np.median(skin[nearest], axis=1)
    expected = medians / medians.sum(axis=1, keepdims=True)
    expected[expected < 0.03] = 0.0
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(spread(points, skin, vertices, NO_FACES), expected, atol=1e-6)


def test_rows_are_whole_whatever_the_points_disagree_on() -> None:
    points = random_skin(40)[0]
    skin = np.eye(len(PARENTS), dtype=np.float32)[np.arange(40) % len(PARENTS)]
    faces = np.array([[0, 1, 2], [2, 1, 3]])
    weights = spread(points, skin, points[:10], faces)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
    assert (weights >= 0.0).all()


def test_chunks_do_not_change_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    points, skin = random_skin(500)
    vertices = np.random.default_rng(3).random((300, 3)).astype(np.float32)
    faces = np.random.default_rng(4).integers(0, 300, (500, 3))
    whole = spread(points, skin, vertices, faces)
    monkeypatch.setattr(weighing, "_CHUNK", 7 * 4 * 11)
    np.testing.assert_array_equal(spread(points, skin, vertices, faces), whole)


def test_sums_over_subtrees_are_undone() -> None:
    _, skin = random_skin(20)
    sums = subtree_sums(skin, PARENTS)
    np.testing.assert_allclose(sums[:, 0], 1.0, atol=1e-6)
    np.testing.assert_allclose(own_shares(sums, PARENTS), skin, atol=1e-6)


def test_the_four_strongest_joints_are_kept_strongest_first() -> None:
    dense = np.array([[0.1, 0.4, 0.0, 0.2, 0.25, 0.05], [0, 0, 1, 0, 0, 0]], np.float32)
    skin = strongest_influences(dense)
    np.testing.assert_array_equal(skin.joints, [[1, 4, 3, 0], [2, 0, 0, 0]])
    np.testing.assert_allclose(skin.weights[0], np.array([0.4, 0.25, 0.2, 0.1]) / 0.95, rtol=1e-6)
    np.testing.assert_array_equal(skin.weights[1], [1, 0, 0, 0])


def test_two_joints_still_give_four_columns() -> None:
    skin = strongest_influences(np.array([[0.25, 0.75]], np.float32))
    np.testing.assert_array_equal(skin.joints, [[1, 0, 0, 0]])
    np.testing.assert_array_equal(skin.weights, [[0.75, 0.25, 0.0, 0.0]])
