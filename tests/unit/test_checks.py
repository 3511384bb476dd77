"""What a rig must fulfil before it is published."""

from dataclasses import replace

import numpy as np
import pytest

from services.inference.checks import check_skeleton, check_weights
from services.inference.geometry import SkinWeights
from tests.generated_bodies import chain_of, triangles

MESH = triangles([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 1]], [[0, 1, 2], [0, 2, 3]])
SKELETON = chain_of((0, 0, 0), (0, 1, 0), (0, 2, 0))
SKIN = SkinWeights(
    joints=np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]], dtype=np.int32),
    weights=np.array([[0.75, 0.25, 0], [1, 0, 0], [1, 0, 0], [0.5, 0.5, 0]], dtype=np.float32),
)


def test_a_sound_rig_passes() -> None:
    check_skeleton(MESH, SKELETON)
    check_weights(MESH, SKELETON, SKIN, max_influences=2)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"parents": np.array([-1, -1], dtype=np.int32)}, "exactly one root"),
        ({"parents": np.array([0, -1], dtype=np.int32)}, "exactly one root"),
        ({"parents": np.array([-1, 1], dtype=np.int32)}, "comes before its parent"),
        ({"parents": np.array([-1, 7], dtype=np.int32)}, "comes before its parent"),
        ({"parents": np.array([-1], dtype=np.int32)}, "one parent for each joint"),
        ({"heads": np.zeros((1, 3), dtype=np.float32)}, "one head and one tail"),
        ({"names": ("hips", "hips")}, "same name"),
        ({"names": ("hips", "")}, "no name"),
        ({"names": ()}, "no joints"),
        ({"heads": np.array([[0, 0, 0], [0, np.nan, 0]], dtype=np.float32)}, "finite place"),
        ({"tails": np.array([[0, 0, 0], [0, np.inf, 0]], dtype=np.float32)}, "finite place"),
        ({"heads": np.array([[0, 0, 0], [0, 2.3, 0]], dtype=np.float32)}, "padded bounds"),
    ],
)
def test_a_skeleton_that_breaks_a_rule_is_refused_with_the_rule(
    change: dict[str, object], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        check_skeleton(MESH, replace(SKELETON, **change))  # type: ignore[arg-type]


def test_joints_may_lie_a_little_outside_the_mesh() -> None:
    heads = np.array([[0, -0.15, 0], [0, 2.15, 0]], dtype=np.float32)
    check_skeleton(MESH, replace(SKELETON, heads=heads))


@pytest.mark.parametrize(
    ("vertex", "joints", "weights", "rule"),
    [
        (1, [0, 0, 0], [0.9, 0, 0], "sum to 1"),
        (1, [0, 0, 0], [0, 0, 0], "sum to 1"),
        (1, [0, 1, 0], [1.5, -0.5, 0], "negative"),
        (1, [0, 1, 0], [np.nan, 1, 0], "finite"),
        (1, [2, 0, 0], [1, 0, 0], "does not have"),
        (1, [-1, 0, 0], [1, 0, 0], "does not have"),
        (1, [0, 1, 0], [0.4, 0.3, 0.3], "more than 2 influences"),
    ],
)
def test_weights_that_break_a_rule_are_refused_with_the_rule(
    vertex: int, joints: list[int], weights: list[float], rule: str
) -> None:
    broken = SkinWeights(SKIN.joints.copy(), SKIN.weights.copy())
    broken.joints[vertex] = joints
    broken.weights[vertex] = weights
    with pytest.raises(ValueError, match=rule):
        check_weights(MESH, SKELETON, broken, max_influences=2)


def test_weights_for_other_vertices_are_refused() -> None:
    with pytest.raises(ValueError, match="one row for each vertex"):
        check_weights(MESH, SKELETON, SkinWeights(SKIN.joints[:3], SKIN.weights[:3]), 2)
    with pytest.raises(ValueError, match="one weight for each influence"):
        check_weights(MESH, SKELETON, SkinWeights(SKIN.joints[:3], SKIN.weights), 2)
