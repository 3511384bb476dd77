"""The steps around UniRig's networks as a program from files to files."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.inference.checks import check_skeleton, check_weights
from services.inference.geometry import (
    Mesh,
    Skeleton,
    load_skeleton,
    load_weights,
    save_mesh,
    save_skeleton,
)
from services.inference.unirig_geometry import program
from services.inference.unirig_geometry.program import sound_weights
from services.inference.unirig_geometry.skeleton import skeleton_within
from tests.generated_bodies import chain_of, person, triangles
from tests.sample_models import human_skeleton

ROOT = Path(__file__).parents[2]
MESH = person()
BONES = human_skeleton()


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.inference.unirig_geometry", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def shares_of(made: subprocess.CompletedProcess[str]) -> list[float]:
    assert made.returncode == 0, made.stderr
    return [json.loads(line)["progress"] for line in made.stdout.splitlines()]


def quietly(share: float, message: str) -> None:
    pass


@pytest.fixture
def mesh_file(tmp_path: Path) -> Path:
    save_mesh(tmp_path / "mesh.npz", MESH)
    return tmp_path / "mesh.npz"


@pytest.fixture
def samples_file(mesh_file: Path, tmp_path: Path) -> Path:
    program.sample_skeleton(mesh_file, tmp_path / "samples.npz", 12345, quietly)
    return tmp_path / "samples.npz"


def as_predicted(samples: Path, bones: Skeleton, path: Path) -> Path:
    """The file that the skeleton network would write for these bones."""
    with np.load(samples) as arrays:
        centre, scale = arrays["centre"], arrays["scale"]
    x, y, z = bones.heads.T
    joints = (np.stack([x, -z, y], axis=1) - centre) / scale
    np.savez(path, joints=joints, parents=bones.parents, names=np.array(bones.names))
    return path


def skin_samples(mesh_file: Path, bones: Skeleton, tmp_path: Path) -> dict[str, np.ndarray]:
    save_skeleton(tmp_path / "skeleton.npz", bones)
    program.sample_skin(
        mesh_file, tmp_path / "skeleton.npz", tmp_path / "skin_samples.npz", 1, quietly
    )
    with np.load(tmp_path / "skin_samples.npz") as arrays:
        return dict(arrays)


def test_a_mesh_becomes_samples_and_joints_become_its_skeleton(tmp_path: Path) -> None:
    save_mesh(tmp_path / "mesh.npz", MESH)
    sampled = run("sample-skeleton", tmp_path / "mesh.npz", tmp_path / "a.npz", "--seed", "12345")
    shares = shares_of(sampled)
    assert shares == sorted(shares)
    assert len(set(shares)) >= 5
    assert shares[-1] == 1.0
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["points"].shape == arrays["normals"].shape == (65536, 3)
        assert arrays["points"].dtype == arrays["normals"].dtype == np.float32
        assert np.abs(arrays["points"]).max() == pytest.approx(1.0, abs=1e-5)

    joints = as_predicted(tmp_path / "a.npz", BONES, tmp_path / "joints.npz")
    out = tmp_path / "skeleton.npz"
    read = run("read-skeleton", tmp_path / "mesh.npz", tmp_path / "a.npz", joints, out)
    assert len(set(shares_of(read))) >= 4
    skeleton = load_skeleton(out)
    check_skeleton(MESH, skeleton)
    assert skeleton.names == BONES.names
    np.testing.assert_allclose(skeleton.heads, BONES.heads, atol=1e-5)


def test_a_mesh_and_a_skeleton_become_samples_and_weights(mesh_file: Path, tmp_path: Path) -> None:
    save_skeleton(tmp_path / "skeleton.npz", BONES)
    rig = (mesh_file, tmp_path / "skeleton.npz")
    sampled = run("sample-skin", *rig, tmp_path / "a.npz", "--seed", "1")
    shares = shares_of(sampled)
    assert shares == sorted(shares)
    assert len(set(shares)) >= 20
    assert max(np.diff([0.0, *shares])) < 0.25
    with np.load(tmp_path / "a.npz") as arrays:
        count = len(BONES.names)
        assert arrays["points"].shape == arrays["normals"].shape == (32768, 3)
        assert arrays["joints"].shape == (count, 3)
        np.testing.assert_array_equal(arrays["parents"], BONES.parents)
        prior = arrays["voxel_skin"]
        assert prior.shape == (32768, count)
        assert prior.dtype == np.float32

    # As if the network thought no better than the prior.
    sharp = prior**3
    np.savez(tmp_path / "w.npz", skin=sharp / sharp.sum(axis=1, keepdims=True))
    read = run("read-skin", *rig, tmp_path / "a.npz", tmp_path / "w.npz", tmp_path / "out.npz")
    assert len(set(shares_of(read))) >= 5
    skin = load_weights(tmp_path / "out.npz")
    check_weights(MESH, BONES, skin, 4)
    hand = MESH.vertices[:, 0] > 0.75
    assert (skin.joints[hand, 0] == BONES.names.index("left_hand")).mean() > 0.9


def test_vertices_at_one_place_get_the_same_weights(mesh_file: Path, tmp_path: Path) -> None:
    corners = MESH.vertices[MESH.faces].reshape(-1, 3)
    torn = triangles(corners, np.arange(len(corners)).reshape(-1, 3))
    save_mesh(tmp_path / "torn.npz", torn)
    samples = skin_samples(mesh_file, BONES, tmp_path)
    np.savez(tmp_path / "w.npz", skin=samples["voxel_skin"])
    skins = []
    for mesh in ("mesh.npz", "torn.npz"):
        program.read_skin(
            *(tmp_path / name for name in (mesh, "skeleton.npz", "skin_samples.npz", "w.npz")),
            tmp_path / "out.npz",
            quietly,
        )
        skins.append(load_weights(tmp_path / "out.npz"))
    whole, apart = skins
    first, last = np.unique(torn.vertices, axis=0, return_inverse=True)
    for place in range(0, len(first), 200):
        rows = apart.weights[last.ravel() == place]
        assert (rows == rows[0]).all()
    check_weights(torn, BONES, apart, 4)
    assert whole.weights.shape == (len(MESH.vertices), 4)


def test_vertices_that_no_face_uses_get_weights_too(tmp_path: Path) -> None:
    stray = np.concatenate([MESH.vertices, np.float32([[5, 5, 5]])])
    mesh = Mesh(stray, MESH.faces, MESH.parts, MESH.part_names)
    save_mesh(tmp_path / "mesh.npz", mesh)
    samples = skin_samples(tmp_path / "mesh.npz", BONES, tmp_path)
    np.savez(tmp_path / "w.npz", skin=samples["voxel_skin"])
    program.read_skin(
        *(tmp_path / name for name in ("mesh.npz", "skeleton.npz", "skin_samples.npz", "w.npz")),
        tmp_path / "out.npz",
        quietly,
    )
    check_weights(mesh, BONES, load_weights(tmp_path / "out.npz"), 4)


def test_a_joint_far_away_does_not_shrink_the_mesh(mesh_file: Path, tmp_path: Path) -> None:
    heads = BONES.heads.copy()
    heads[-1] = (0, 1e6, 0)
    samples = skin_samples(mesh_file, replace(BONES, heads=heads), tmp_path)
    assert np.ptp(samples["points"], axis=0).max() > 1.0
    assert np.isfinite(samples["voxel_skin"]).all()


def test_joints_outside_the_mesh_are_brought_to_its_padded_bounds(
    mesh_file: Path, samples_file: Path, tmp_path: Path
) -> None:
    heads = BONES.heads.copy()
    heads[4] = (0, 2.5, 3)
    joints = as_predicted(samples_file, replace(BONES, heads=heads), tmp_path / "joints.npz")
    program.read_skeleton(mesh_file, samples_file, joints, tmp_path / "out.npz", quietly)
    skeleton = load_skeleton(tmp_path / "out.npz")
    check_skeleton(MESH, skeleton)
    np.testing.assert_allclose(skeleton.heads[:4], BONES.heads[:4], atol=1e-5)


def test_a_bone_ends_in_its_only_child_and_a_leaf_goes_on_as_its_parent() -> None:
    heads = np.array([[0, 0.2, 0], [0, 1.0, 0], [0, 1.4, 0], [0.4, 1.4, 0], [0, 1.4, 0]])
    parents = np.array([-1, 0, 1, 1, 2], np.int32)
    skeleton = skeleton_within(MESH, heads, parents, ("a", "b", "c", "d", "e"))
    np.testing.assert_allclose(skeleton.tails[0], heads[1], atol=1e-6)
    np.testing.assert_allclose(skeleton.tails[1], heads[2], atol=1e-6)
    np.testing.assert_allclose(skeleton.tails[3], [0.6, 1.6, 0], atol=1e-6)
    assert (np.linalg.norm(skeleton.tails - skeleton.heads, axis=1) > 1e-3).all()


def test_points_without_weights_take_those_of_the_prior() -> None:
    prior = np.full((4, 2), 0.5, np.float32)
    skin = np.array([[1, 0], [np.nan, np.nan], [0, 0], [0.25, 0.75]], np.float32)
    np.testing.assert_array_equal(
        sound_weights(skin, prior), [[1, 0], [0.5, 0.5], [0.5, 0.5], [0.25, 0.75]]
    )
    with pytest.raises(ValueError, match="most"):
        sound_weights(np.full((4, 2), np.nan, np.float32), prior)
    with pytest.raises(ValueError, match="shape"):
        sound_weights(skin[:3], prior)


@pytest.mark.parametrize(
    ("mesh", "reason"),
    [
        (triangles(np.zeros((4, 3)), [[0, 1, 2], [1, 2, 3]]), "no size"),
        (triangles([[x, 0, 0] for x in range(4)], [[0, 1, 2], [1, 2, 3]]), "no area"),
        (triangles([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]), "fewer than four"),
        (triangles([[0, 0, 0], [1, 0, 0], [0, 1, 0]], []), "no faces"),
    ],
    ids=["a point", "a line", "a triangle", "points"],
)
def test_a_mesh_that_cannot_be_rigged_ends_with_a_reason(
    mesh: Mesh, reason: str, tmp_path: Path
) -> None:
    save_mesh(tmp_path / "mesh.npz", mesh)
    refused = run("sample-skeleton", tmp_path / "mesh.npz", tmp_path / "out.npz", "--seed", "1")
    assert refused.returncode == 3, refused.stderr
    last = json.loads(refused.stdout.splitlines()[-1])
    assert last["error_code"] == "INVALID_MESH"
    assert reason in last["error"]
    assert not (tmp_path / "out.npz").exists()


def test_a_skeleton_of_one_joint_ends_with_a_reason(
    mesh_file: Path, samples_file: Path, tmp_path: Path
) -> None:
    one = chain_of((0, 1, 0), (0, 1.5, 0))
    save_skeleton(tmp_path / "skeleton.npz", one)
    out = tmp_path / "out.npz"
    for refused in (
        run("sample-skin", mesh_file, tmp_path / "skeleton.npz", out, "--seed", "1"),
        run(
            *("read-skeleton", mesh_file, samples_file),
            *(as_predicted(samples_file, one, tmp_path / "joints.npz"), out),
        ),
    ):
        assert refused.returncode == 3, refused.stderr
        last = json.loads(refused.stdout.splitlines()[-1])
        assert last["error_code"] == "INVALID_MESH"
        assert "joint" in last["error"]
    assert not out.exists()


def test_joints_that_are_no_tree_end_with_a_reason(mesh_file: Path, tmp_path: Path) -> None:
    save_skeleton(
        tmp_path / "skeleton.npz", replace(BONES, parents=np.full_like(BONES.parents, -1))
    )
    refused = run(
        *("sample-skin", mesh_file, tmp_path / "skeleton.npz", tmp_path / "out.npz"),
        *("--seed", "1"),
    )
    assert refused.returncode == 3
    assert "one root" in json.loads(refused.stdout.splitlines()[-1])["error"]


def test_arguments_it_does_not_know_end_with_its_usage() -> None:
    assert run("rig").returncode == 2


def test_the_program_never_needs_the_network() -> None:
    script = "import sys, services.inference.unirig_geometry.program; print('torch' in sys.modules)"
    made = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == "False"
