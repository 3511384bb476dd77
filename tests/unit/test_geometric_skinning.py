"""Skinning weights of the geometric engine."""

import numpy as np
import numpy.typing as npt
import pytest
import trimesh

from services.inference.checks import check_weights
from services.inference.geometric.engine import MAX_INFLUENCES, predict_skeleton, predict_weights
from services.inference.geometry import Mesh, Skeleton
from tests.generated_bodies import as_mesh, capsule, chain_of, dog, person, triangles


def skin(mesh: Mesh, skeleton: Skeleton) -> npt.NDArray[np.float64]:
    """Checked weights, dense: (vertices, joints)."""
    sparse = predict_weights(mesh, skeleton, lambda share, message: None)
    check_weights(mesh, skeleton, sparse, MAX_INFLUENCES)
    dense = np.zeros((len(mesh.vertices), len(skeleton.names)))
    np.add.at(dense, (np.arange(len(dense))[:, None], sparse.joints), sparse.weights)
    return dense


def skeleton_of(mesh: Mesh) -> Skeleton:
    return predict_skeleton(mesh, lambda share, message: None)


ARM = chain_of((0, 0, 0), (1, 0, 0), (2, 0, 0))


def test_each_end_of_an_arm_follows_its_own_bone() -> None:
    mesh = as_mesh(capsule((0, 0, 0), (2, 0, 0), 0.15))
    weights = skin(mesh, ARM)
    along = mesh.vertices[:, 0]
    assert (weights[along < 0.5, 0] > 0.95).all()
    assert (weights[along > 1.5, 1] > 0.95).all()
    bend = weights[np.abs(along - 1) < 0.05, 0]
    assert ((bend > 0.2) & (bend < 0.8)).all()


def test_the_hands_of_a_person_follow_the_hands() -> None:
    mesh = person()
    skeleton = skeleton_of(mesh)
    weights = skin(mesh, skeleton)
    for name, chosen in {
        "left_hand": mesh.vertices[:, 0] > 0.8,
        "right_hand": mesh.vertices[:, 0] < -0.8,
        "head": mesh.vertices[:, 1] > 1.72,
    }.items():
        assert weights[chosen][:, skeleton.names.index(name)].mean() > 0.9, name


def test_a_leg_does_not_follow_the_other_leg() -> None:
    mesh = person()
    skeleton = skeleton_of(mesh)
    weights = skin(mesh, skeleton)
    left_shank = (mesh.vertices[:, 0] > 0.03) & (mesh.vertices[:, 1] < 0.4)
    of_right = [name.startswith("right") for name in skeleton.names]
    assert weights[left_shank][:, of_right].sum(axis=1).max() < 0.05


def test_a_sleeve_that_hides_the_arm_follows_the_arm_inside() -> None:
    arm = capsule((0, 0, 0), (2, 0, 0), 0.15)
    mesh = as_mesh(arm, capsule((0.1, 0, 0), (1.9, 0, 0), 0.2))
    weights = skin(mesh, ARM)[len(arm.vertices) :]
    along = mesh.vertices[len(arm.vertices) :, 0]
    assert (weights[along < 0.5, 0] > 0.8).all()
    assert (weights[along > 1.5, 1] > 0.8).all()


def test_a_small_loose_part_moves_as_one() -> None:
    button = trimesh.creation.icosphere(subdivisions=1, radius=0.03)
    button.apply_translation((1.0, 0.19, 0))
    arm = capsule((0, 0, 0), (2, 0, 0), 0.15)
    weights = skin(as_mesh(arm, button), ARM)[len(arm.vertices) :]
    np.testing.assert_allclose(weights, weights[:1].repeat(len(weights), axis=0), atol=1e-6)


UPRIGHT = chain_of((0, 0, 0), (0, 1, 0), (0, 2, 0))


def box(extents: tuple[float, float, float], centre: tuple[float, float, float]) -> trimesh.Trimesh:
    thing = trimesh.creation.box(extents=extents).subdivide_to_size(0.1, return_index=False)
    assert isinstance(thing, trimesh.Trimesh)
    thing.apply_translation(centre)
    return thing


def test_a_held_stick_follows_the_hand_alone() -> None:
    arm = capsule((0, 0, 0), (2, 0, 0), 0.15)
    stick = box((1.9, 0.04, 0.04), (0.95, 0, 0))
    stick.vertices[:, 1] += 0.6 - 0.23 * stick.vertices[:, 0]
    weights = skin(as_mesh(arm, stick), ARM)[len(arm.vertices) :]
    np.testing.assert_array_equal(weights[:, 1], 1.0)


def test_a_cape_follows_the_shoulders_that_it_hangs_from() -> None:
    body = capsule((0, 0, 0), (0, 2, 0), 0.2)
    cape = box((1.2, 1.8, 0.02), (0, 1, -0.24))
    weights = skin(as_mesh(body, cape), UPRIGHT)[len(body.vertices) :]
    np.testing.assert_array_equal(weights[:, 1], 1.0)


def test_a_thing_worn_along_the_arm_bends_with_it() -> None:
    arm = capsule((0, 0, 0), (2, 0, 0), 0.15)
    bracer = box((1.8, 0.03, 0.1), (1, 0.17, 0))
    weights = skin(as_mesh(arm, bracer), ARM)[len(arm.vertices) :]
    along = bracer.vertices[:, 0]
    assert (weights[along < 0.5, 0] > 0.8).all()
    assert (weights[along > 1.5, 1] > 0.8).all()


def test_the_belly_does_not_follow_a_leg_that_begins_under_its_skin() -> None:
    belly = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    mesh = as_mesh(belly)
    skeleton = Skeleton(
        names=("body", "leg"),
        parents=np.array([-1, 0], dtype=np.int32),
        heads=np.array([[0, 0, -0.2], [0.35, 0, 0]], dtype=np.float32),
        tails=np.array([[0, 0, 0.2], [1.2, 0, 0]], dtype=np.float32),
    )
    flank = np.abs(mesh.vertices[:, 0] - 0.35) < 0.05
    assert skin(mesh, skeleton)[flank, 0].mean() > 0.7


def test_vertices_at_one_place_have_the_same_weights() -> None:
    mesh = as_mesh(capsule((0, 0, 0), (2, 0, 0), 0.15))
    soup = triangles(mesh.vertices[mesh.faces].reshape(-1, 3), np.arange(mesh.faces.size))
    np.testing.assert_allclose(skin(soup, ARM), skin(mesh, ARM)[mesh.faces.ravel()], atol=1e-5)


def test_a_vertex_without_faces_is_weighted_too() -> None:
    mesh = as_mesh(capsule((0, 0, 0), (2, 0, 0), 0.15))
    stray = np.vstack([mesh.vertices, [[1e6, 0, 0]]])
    assert skin(triangles(stray, mesh.faces), ARM)[-1].argmax() == 1


def test_a_fine_mesh_is_weighted_like_a_coarse_one() -> None:
    coarse = capsule((0, 0, 0), (2, 0, 0), 0.2)
    fine = coarse.subdivide_to_size(0.015, return_index=False)
    assert isinstance(fine, trimesh.Trimesh)
    assert len(fine.faces) > 40_000
    low = skin(as_mesh(coarse), ARM)[:, 0]
    high = skin(as_mesh(fine), ARM)[:, 0]
    assert np.abs(high[: len(low)] - low).mean() < 0.03


@pytest.mark.parametrize(
    "skeleton",
    [
        chain_of((0, 1, 0), (0, 1.2, 0)),
        chain_of((9, 1, 0), (9, 2, 0), (9, 3, 0)),
        chain_of((0, 1, 0), (0, 1, 0), (0, 1, 0)),
        chain_of((0, 1, 0), (0, 1e8, 0), (0, 2e8, 0)),
    ],
    ids=["one joint", "outside", "no length", "far away"],
)
def test_any_tree_of_joints_can_be_skinned(skeleton: Skeleton) -> None:
    skin(dog(), skeleton)


def test_a_root_on_the_floor_moves_no_vertex_alone() -> None:
    skeleton = chain_of((0, 0, 0), (0, 0.95, 0), (0, 1.4, 0), (0, 1.8, 0))
    assert skin(person(), skeleton)[:, 0].max() == 0.0


def test_neither_does_its_child_that_starts_there_too() -> None:
    skeleton = chain_of((0, 0, 0), (0, 0, 0), (0, 0.95, 0), (0, 1.4, 0), (0, 1.8, 0))
    assert skin(person(), skeleton)[:, :2].max() == 0.0


def test_joints_that_are_no_tree_are_refused() -> None:
    two_roots = Skeleton(ARM.names, np.array([-1, -1], dtype=np.int32), ARM.heads, ARM.tails)
    with pytest.raises(ValueError, match="exactly one root"):
        skin(dog(), two_roots)


def test_the_same_input_gives_the_same_weights() -> None:
    mesh = dog()
    skeleton = skeleton_of(mesh)
    np.testing.assert_array_equal(skin(mesh, skeleton), skin(mesh, skeleton))


def test_progress_never_goes_back_and_comes_in_many_steps() -> None:
    mesh = person()
    shares: list[float] = []
    predict_weights(mesh, skeleton_of(mesh), lambda share, message: shares.append(share))
    assert shares == sorted(shares)
    assert len(set(shares)) >= 20
    assert max(np.diff([0.0, *shares])) < 0.2
    assert shares[-1] == 1.0
