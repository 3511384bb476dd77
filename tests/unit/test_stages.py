"""The parts of a job that need no services: names, progress, transfer, checks, scratch folders."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.inference import stages
from services.inference.geometry import Mesh, Skeleton, SkinWeights
from services.inference.progress import Progress
from services.inference.result_checks import check_read_back
from services.inference.scratch import Scratch
from services.inference.weight_transfer import (
    joints_without_skin,
    match_joints,
    transfer_weights,
)
from services.inference.workplace import Workplace


@pytest.fixture
def arm() -> tuple[Mesh, Skeleton, SkinWeights]:
    """A bar of two cubes along X, its left half on one joint and its right half on the next."""
    corners = np.array([(x, y, z) for x in (0, 1, 2) for y in (0, 1) for z in (0, 1)], np.float32)
    faces = np.array([(i, i + 1, i + 4) for i in range(8)], np.int32)
    mesh = Mesh(corners, faces, np.zeros(8, np.int32), ("bar",))
    skeleton = Skeleton(
        ("upper", "lower"),
        np.array([-1, 0], np.int32),
        np.array([(0, 0.5, 0.5), (1, 0.5, 0.5)], np.float32),
        np.array([(1, 0.5, 0.5), (2, 0.5, 0.5)], np.float32),
    )
    joints = (corners[:, :1] > 0.5).astype(np.int32)
    return mesh, skeleton, SkinWeights(joints, np.ones((12, 1), np.float32))


@pytest.mark.parametrize(
    ("asset", "name"),
    [
        ("/uploads/s/hero.obj", "hero_skeleton"),
        ("/uploads/s/hero_skeleton.obj", "hero_skeleton"),
        ("/uploads/s/hero_skeleton-2.fbx", "hero_skeleton"),
        ("/uploads/s/hero_rigged.glb", "hero_skeleton"),
        ("/uploads/s/hero.v2.obj", "hero.v2_skeleton"),
        ("/uploads/s/skeleton.obj", "skeleton_skeleton"),
        ("/uploads/s/_skeleton.obj", "model_skeleton"),
    ],
)
def test_results_are_named_after_the_original(asset: str, name: str) -> None:
    assert stages.result_name(asset, "skeleton") == name


def test_the_longest_name_keeps_its_suffix() -> None:
    name = stages.result_name(f"/uploads/s/{'ü' * 125}.obj", "skeleton")
    assert name.endswith("ü_skeleton")
    assert len(f"{name}.obj".encode()) < 255


def test_progress_never_falls_and_leaves_the_end_to_the_jobs_service() -> None:
    progress = Progress()
    report = progress.span(20, 60, "Predicting skeleton")
    report(0.5, "")
    assert (progress.percent, progress.message) == (40, "Predicting skeleton")
    report(0.25, "Filling the solid")
    assert (progress.percent, progress.message) == (40, "Filling the solid")
    progress.span(90, 100, "Saving results")(1.0, "")
    assert (progress.percent, progress.message) == (99, "Saving results")


def test_joints_match_by_name_whatever_their_order(
    arm: tuple[Mesh, Skeleton, SkinWeights],
) -> None:
    _, skeleton, skin = arm
    longer = Skeleton(
        ("lower", "hand", "upper"), np.array([-1, 0, 0], np.int32), *np.zeros((2, 3, 3), np.float32)
    )
    matches = match_joints(skeleton, skin, longer)
    assert matches.tolist() == [2, 0]
    assert joints_without_skin(skeleton, longer, matches) == (
        "No vertex follows these joints, which the skinning file does not have: hand."
    )


def test_joints_of_the_same_tree_match_by_order(arm: tuple[Mesh, Skeleton, SkinWeights]) -> None:
    _, skeleton, skin = arm
    renamed = replace(skeleton, names=("bone_0", "bone_1"))
    matches = match_joints(skeleton, skin, renamed)
    assert matches.tolist() == [0, 1]
    assert joints_without_skin(skeleton, renamed, matches) is None


def test_a_joint_that_moves_nothing_need_not_match(
    arm: tuple[Mesh, Skeleton, SkinWeights],
) -> None:
    _, skeleton, skin = arm
    still = SkinWeights(np.zeros_like(skin.joints), skin.weights)
    assert match_joints(skeleton, still, one_joint("upper")).tolist() == [0, -1]


def test_a_joint_that_is_missing_is_named(arm: tuple[Mesh, Skeleton, SkinWeights]) -> None:
    _, skeleton, skin = arm
    with pytest.raises(ValueError, match=r"joints that the skeleton does not have: lower\."):
        match_joints(skeleton, skin, one_joint("upper"))


def one_joint(name: str) -> Skeleton:
    point = np.zeros((1, 3), np.float32)
    return Skeleton((name,), np.array([-1], np.int32), point, point + 1)


def test_each_vertex_takes_the_weights_of_the_nearest(
    arm: tuple[Mesh, Skeleton, SkinWeights],
) -> None:
    mesh, _, skin = arm
    backwards = replace(mesh, vertices=mesh.vertices[::-1] + np.float32(0.01))
    moved = transfer_weights(mesh, skin, np.array([1, 0], np.int32), backwards)
    assert moved.joints[:, 0].tolist() == [0] * 8 + [1] * 4


def test_weights_do_not_go_to_a_model_that_lies_elsewhere(
    arm: tuple[Mesh, Skeleton, SkinWeights],
) -> None:
    mesh, _, skin = arm
    larger = replace(mesh, vertices=mesh.vertices * np.float32(100))
    with pytest.raises(ValueError, match="made for another model"):
        transfer_weights(mesh, skin, np.array([0, 1], np.int32), larger)


def test_a_file_that_says_the_same_passes(arm: tuple[Mesh, Skeleton, SkinWeights]) -> None:
    check_read_back(*arm, *arm)


def test_a_file_with_joints_in_another_order_passes(
    arm: tuple[Mesh, Skeleton, SkinWeights],
) -> None:
    mesh, _, skin = arm
    trunk = Skeleton(
        ("root", "a", "b"),
        np.array([-1, 0, 0], np.int32),
        *np.stack([np.eye(3, dtype=np.float32)] * 2),
    )
    turned = Skeleton(
        ("root", "b", "a"), trunk.parents, trunk.heads[[0, 2, 1]], trunk.tails[[0, 2, 1]]
    )
    swapped = SkinWeights(np.array([0, 2, 1], np.int32)[skin.joints], skin.weights)
    check_read_back(mesh, trunk, skin, mesh, turned, swapped)
    with pytest.raises(ValueError, match="weights differ"):
        check_read_back(mesh, trunk, skin, mesh, turned, skin)


def test_a_file_that_says_something_else_fails(arm: tuple[Mesh, Skeleton, SkinWeights]) -> None:
    mesh, skeleton, skin = arm
    away = replace(skeleton, heads=skeleton.heads + np.float32(0.1))
    larger = replace(mesh, vertices=mesh.vertices * np.float32(1.1))
    bent = mesh.vertices.copy()
    bent[5, 0] += np.float32(0.1)
    flipped = SkinWeights(1 - skin.joints, skin.weights)
    other_tree = replace(skeleton, names=("lower", "upper"))
    for read, complaint in (
        ((larger, skeleton, skin), "size or place"),
        ((replace(mesh, vertices=bent), skeleton, skin), "shape"),
        ((mesh, None, None), "no skeleton"),
        ((mesh, one_joint("upper"), skin), "other names"),
        ((mesh, other_tree, skin), "another tree"),
        ((mesh, away, skin), "lie elsewhere"),
        ((mesh, skeleton, None), "no skin weights"),
        ((mesh, skeleton, flipped), "weights differ"),
    ):
        with pytest.raises(ValueError, match=complaint):
            check_read_back(*arm, *read)


def test_a_link_that_a_step_left_is_not_its_result(place: Workplace, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (place.folder / "link").symlink_to(secret)
    (place.folder / "folder").symlink_to(tmp_path)
    os.mkfifo(place.folder / "pipe")
    (place.folder / "file").write_text("{}")
    assert place.has(place.folder / "file")
    for name in ("link", "folder/secret", "pipe", "missing"):
        assert not place.has(place.folder / name)


@pytest.mark.parametrize(
    ("report", "notes"),
    [
        ('{"notes": ["One.", "Two."]}', ["One.", "Two."]),
        ('{"notes": ["' + "x" * 900 + '", 7, "\\u001b[2J"]}', ["x" * 300]),
        ('{"notes": {"a": 1}}', []),
        ("[]", []),
        ("{", []),
        ("[" * 50_000, []),
        ('{"notes": ["' + "x" * 70_000 + '"]}', []),
    ],
)
def test_the_notes_of_a_step_are_short_texts_or_nothing(
    place: Workplace, report: str, notes: list[str]
) -> None:
    (place.folder / "report.json").write_text(report)
    assert place.notes(place.folder / "report.json") == notes


def test_scratch_folders_of_the_dead_are_removed_and_of_the_living_kept(tmp_path: Path) -> None:
    (tmp_path / "worker-dead" / "job-1").mkdir(parents=True)
    (tmp_path / "worker-dead" / ".lock").touch()
    (tmp_path / "worker-newborn").mkdir()
    first = Scratch(tmp_path)
    second = Scratch(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([first.folder, second.folder])
    with pytest.raises(ZeroDivisionError), first.attempt() as folder:
        (folder / "file").touch()
        raise ZeroDivisionError
    assert not folder.exists()
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == []
