"""The geometric engine as a program from files to files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from services.inference.checks import check_skeleton, check_weights
from services.inference.geometry import load_skeleton, load_weights, save_mesh, save_skeleton
from tests.generated_bodies import chain_of, person, triangles

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.inference.geometric", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_mesh_file_becomes_a_skeleton_file_and_a_weights_file(tmp_path: Path) -> None:
    mesh = person()
    save_mesh(tmp_path / "mesh.npz", mesh)
    made = run("skeleton", tmp_path / "mesh.npz", tmp_path / "skeleton.npz")
    assert made.returncode == 0, made.stderr
    skeleton = load_skeleton(tmp_path / "skeleton.npz")
    check_skeleton(mesh, skeleton)
    shares = [json.loads(line)["progress"] for line in made.stdout.splitlines()]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0

    skinned = run("skin", tmp_path / "mesh.npz", tmp_path / "skeleton.npz", tmp_path / "skin.npz")
    assert skinned.returncode == 0, skinned.stderr
    check_weights(mesh, skeleton, load_weights(tmp_path / "skin.npz"), 4)


def test_a_mesh_that_cannot_be_rigged_ends_with_a_reason_for_the_user(tmp_path: Path) -> None:
    save_mesh(tmp_path / "mesh.npz", triangles(np.zeros((4, 3)), [[0, 1, 2], [1, 2, 3]]))
    refused = run("skeleton", tmp_path / "mesh.npz", tmp_path / "skeleton.npz")
    assert refused.returncode == 3
    last = json.loads(refused.stdout.splitlines()[-1])
    assert last["error_code"] == "INVALID_MESH"
    assert "no size" in last["error"]
    assert not (tmp_path / "skeleton.npz").exists()


def test_a_skeleton_that_is_no_tree_ends_with_a_reason_for_the_user(tmp_path: Path) -> None:
    save_mesh(tmp_path / "mesh.npz", person())
    skeleton = chain_of((0, 0, 0), (0, 1, 0), (0, 2, 0))
    skeleton.parents[:] = -1
    save_skeleton(tmp_path / "skeleton.npz", skeleton)
    refused = run("skin", tmp_path / "mesh.npz", tmp_path / "skeleton.npz", tmp_path / "skin.npz")
    assert refused.returncode == 3
    assert "one root" in json.loads(refused.stdout.splitlines()[-1])["error"]


def test_arguments_it_does_not_know_end_with_its_usage() -> None:
    assert run("rig").returncode == 2
