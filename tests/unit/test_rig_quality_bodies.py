"""The generated bodies of the benchmark of rigs: are the rigs they come with true?"""

from collections import Counter
from dataclasses import replace

import igl
import numpy as np
import numpy.typing as npt
import pytest

from services.inference.checks import check_skeleton, check_weights
from services.inference.geometry import Mesh
from tests.bench.rig_quality.bodies import VARIANTS, Body, Variant, build
from tests.bench.rig_quality.metrics import dense_weights
from tests.bench.rig_quality.sizes import body_of

SEED = 0
BY_NAME = {variant.name: variant for variant in VARIANTS}


def named(name: str) -> Body:
    return build(BY_NAME[name], SEED)


def edges_of(mesh: Mesh) -> Counter[tuple[int, int]]:
    """How often each directed edge occurs."""
    corners = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    return Counter(map(tuple, corners.tolist()))


def winding_numbers(body: Body) -> npt.NDArray[np.float64]:
    """(J,) how often the surface goes around each joint, seen from its outside."""
    mesh = body.mesh
    return np.asarray(
        igl.fast_winding_number(
            mesh.vertices.astype(np.float64),
            mesh.faces.astype(np.int64),
            body.skeleton.heads.astype(np.float64),
        )
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_body_has_one_tree_of_joints_that_its_vertices_follow(variant: Variant) -> None:
    body = build(variant, SEED)
    check_skeleton(body.mesh, body.skeleton)
    check_weights(body.mesh, body.skeleton, body.skin, 4)
    followed = np.unique(body.skin.joints[body.skin.weights > 0])
    assert len(followed) == len(body.skeleton.names)
    assert len(body.mesh.faces) <= variant.faces * 1.1


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_an_undamaged_body_lies_around_all_its_joints(variant: Variant) -> None:
    whole = build(replace(variant, damage=variant.damage & {"components"}), SEED)
    assert winding_numbers(whole).min() > 0.9
    edges = edges_of(whole.mesh)
    assert all(edges[b, a] == count for (a, b), count in edges.items())


def test_there_are_thirty_bodies_of_six_plans() -> None:
    assert len(VARIANTS) >= 30
    plans = Counter(variant.plan.__name__ for variant in VARIANTS)
    assert len(plans) == 6
    assert min(plans.values()) >= 5
    sizes = [variant.faces for variant in VARIANTS]
    assert max(sizes) > 10 * min(sizes)


def test_a_body_is_the_same_each_time_and_another_for_another_seed() -> None:
    body, again, other = named("biped_tail"), named("biped_tail"), build(BY_NAME["biped_tail"], 1)
    np.testing.assert_array_equal(body.mesh.vertices, again.mesh.vertices)
    np.testing.assert_array_equal(body.mesh.faces, again.mesh.faces)
    np.testing.assert_array_equal(body.skin.weights, again.skin.weights)
    assert np.abs(body.skeleton.heads - other.skeleton.heads).max() > 0.01


def test_left_is_at_positive_x_and_the_feet_point_forward() -> None:
    skeleton = named("biped_plain").skeleton
    place = dict(zip(skeleton.names, skeleton.heads, strict=True))
    assert place["hand_left"][0] > 0.3
    assert place["hand_right"][0] < -0.3
    assert place["toes_left"][2] > place["foot_left"][2] + 0.05
    assert place["head"][1] > place["hips"][1] > place["foot_left"][1]


def test_a_mirrored_pose_is_the_same_on_both_sides() -> None:
    skeleton = named("biped_plain").skeleton
    place = dict(zip(skeleton.names, skeleton.heads, strict=True))
    for name, head in place.items():
        twin = place[name.replace("left", "right")] if "left" in name else None
        if twin is not None:
            np.testing.assert_allclose(twin, head * (-1, 1, 1), atol=1e-5)


def test_flesh_follows_its_own_bone_and_is_shared_at_a_joint() -> None:
    body = named("biped_plain")
    weights = dense_weights(body.skin, len(body.skeleton.names))
    knee = body.skeleton.names.index("lower_leg_left")
    foot = body.skeleton.names.index("foot_left")
    thigh = body.skeleton.names.index("upper_leg_left")
    shin = (body.skeleton.heads[knee] + body.skeleton.heads[foot]) / 2
    at_shin = np.linalg.norm(body.mesh.vertices - shin, axis=1).argmin()
    assert weights[at_shin, knee] > 0.95
    at_knee = np.linalg.norm(body.mesh.vertices - body.skeleton.heads[knee], axis=1).argmin()
    assert weights[at_knee, knee] > 0.2
    assert weights[at_knee, thigh] > 0.2


def test_legs_that_are_near_each_other_do_not_move_each_other() -> None:
    body = named("biped_plain")
    weights = dense_weights(body.skin, len(body.skeleton.names))
    sides = {
        side: weights[:, [f"lower_leg_{side}" in name for name in body.skeleton.names]].sum(axis=1)
        for side in ("left", "right")
    }
    assert sides["left"].max() == pytest.approx(1, abs=1e-3)
    assert (sides["left"] * sides["right"]).max() == 0


def test_what_is_carried_is_rigid() -> None:
    body = named("biped_equipped")
    joints = {body.skeleton.names.index(name) for name in ("hand_left", "chest", "head")}
    rigid = set()
    for part in range(1, len(body.mesh.part_names)):
        vertices = np.unique(body.mesh.faces[body.mesh.parts == part])
        assert (body.skin.weights[vertices, 0] == 1).all()
        rigid |= set(body.skin.joints[vertices, 0].tolist())
    assert rigid == joints


def test_holes_open_the_surface() -> None:
    edges = edges_of(named("bird_holes").mesh)
    assert sum((b, a) not in edges for a, b in edges) > 20


def test_flipped_faces_point_inwards() -> None:
    edges = edges_of(named("quadruped_parts").mesh)
    assert sum(count > 1 for count in edges.values()) > 100


def test_components_share_no_vertex() -> None:
    mesh = named("quadruped_parts").mesh
    owners = [set(mesh.faces[mesh.parts == part].ravel()) for part in np.unique(mesh.parts)]
    assert len(owners) > 20
    assert sum(map(len, owners)) == len(set().union(*owners))


def test_noise_moves_the_vertices_and_not_the_rig() -> None:
    noisy = named("biped_tail")
    smooth = build(replace(BY_NAME["biped_tail"], damage=frozenset()), SEED)
    np.testing.assert_array_equal(noisy.skeleton.heads, smooth.skeleton.heads)
    moved = np.linalg.norm(noisy.mesh.vertices - smooth.mesh.vertices, axis=1)
    assert 0.001 < moved.mean() / smooth.mesh.extent < 0.01


@pytest.mark.parametrize("triangles", [5_000, 100_000])
def test_a_body_keeps_its_shape_at_every_size(triangles: int) -> None:
    original, sized = named("biped_fingers").mesh, body_of(triangles, SEED)
    assert len(sized.faces) == pytest.approx(triangles, rel=0.01)
    room = 0.01 * original.extent
    for end in (np.min, np.max):
        np.testing.assert_allclose(
            end(sized.vertices, axis=0), end(original.vertices, axis=0), atol=room
        )
