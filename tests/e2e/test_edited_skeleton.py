"""A skeleton that a user brings stays theirs, through skinning and merge."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.inference.geometry import Skeleton, load_mesh, load_skeleton, load_weights
from tests.e2e.conftest import Client

ROOT = Path(__file__).parents[2]
RENAMED = {"right_hand": "Hand.R (mine)"}
MOVED = {"neck": (0.02, 0.0, 0.0)}
ADDED = {"antenna": "head", "Zopf": "head", "a_2": "head", "a_1": "a_2"}
EDITS = {"renamed": RENAMED, "moved": MOVED, "added": ADDED}


def program(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def downloaded(client: Client, job: dict[str, Any], kind: str, folder: Path) -> Path:
    (path,) = [item["path"] for item in job["artifacts"] if item["format"] == kind]
    file = folder / f"{job['job_id']}.{kind}"
    file.write_bytes(client.http.get(path).content)
    return file


def skeleton_of(file: Path) -> Skeleton:
    program("services.inference.formats.read", file, file.with_suffix(".read"))
    return load_skeleton(file.with_suffix(".read") / "skeleton.npz")


def parent_names(skeleton: Skeleton) -> dict[str, str | None]:
    names = skeleton.names
    return {
        name: names[parent] if parent >= 0 else None
        for name, parent in zip(names, skeleton.parents, strict=True)
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["fbx", "glb"])
def test_an_edited_skeleton_keeps_its_names_order_and_custom_bones(
    rigged: tuple[Client, dict[str, dict[str, Any]]], kind: str, tmp_path: Path
) -> None:
    client, jobs = rigged
    ours = downloaded(client, jobs["skeleton"], kind, tmp_path)
    before = skeleton_of(ours)
    edited = tmp_path / f"edited.{kind}"
    program("tests.edit_in_blender", ours, edited, json.dumps(EDITS))
    upload = client.uploaded(edited)
    skinning = client.finished("skinning", input_file=upload)
    assert skinning["status"] == "completed", skinning
    merge = client.finished(
        "merge",
        skeleton_file=upload,
        skinning_file=skinning["output_file"],
        output_format=kind,
    )
    assert merge["status"] == "completed", merge

    # No end bones of the exporter, and nothing lost.
    expected = {
        RENAMED.get(name, name): RENAMED.get(str(parent), parent)
        for name, parent in parent_names(before).items()
    } | ADDED
    user = skeleton_of(edited)
    assert parent_names(user) == expected
    heads = dict(zip(user.names, user.heads, strict=True))
    for name, way in MOVED.items():
        moved = heads[name] - before.heads[before.names.index(name)]
        np.testing.assert_allclose(moved, way, atol=1e-4)

    for job in (skinning, merge):
        for written in ("fbx", "glb"):
            file = downloaded(client, job, written, tmp_path)
            result = skeleton_of(file)
            assert result.names == user.names
            np.testing.assert_array_equal(result.parents, user.parents)
            np.testing.assert_allclose(result.heads, user.heads, atol=1e-4)
            skin = load_weights(file.with_suffix(".read") / "weights.npz")
            assert len(skin.joints) == len(
                load_mesh(file.with_suffix(".read") / "mesh.npz").vertices
            )
            np.testing.assert_allclose(skin.weights.sum(axis=1), 1, atol=1e-3)
            # What was added moves its part of the mesh: a custom bone is no ornament.
            moving = {result.names[joint] for joint in np.unique(skin.joints[skin.weights > 0.1])}
            assert moving & set(ADDED)


@pytest.mark.timeout(600)
def test_a_rig_is_replaced_by_a_skeleton_job_and_kept_by_a_skinning_job(
    client: Client, models: Path, tmp_path: Path
) -> None:
    fox = tmp_path / "fox.glb"
    fox.write_bytes((models / "fox.glb").read_bytes())
    own = skeleton_of(fox)
    upload = client.uploaded(fox)

    replaced = client.finished("skeleton", input_file=upload)
    assert any(
        note.startswith("The rig that the model had was replaced.") for note in replaced["notes"]
    )
    assert skeleton_of(downloaded(client, replaced, "glb", tmp_path)).names != own.names

    kept = client.finished("skinning", input_file=upload)
    assert kept["status"] == "completed", kept
    assert "The skin weights that the model had were replaced." in kept["notes"]
    merge = client.finished("merge", skeleton_file=upload, skinning_file=kept["output_file"])
    assert merge["status"] == "completed", merge
    for job in (kept, merge):
        for kind in ("fbx", "glb"):
            result = skeleton_of(downloaded(client, job, kind, tmp_path))
            assert set(result.names) == set(own.names)
            assert parent_names(result) == parent_names(own)
            order = [result.names.index(name) for name in own.names]
            room = 1e-3 * np.ptp(own.heads)
            np.testing.assert_allclose(result.heads[order], own.heads, atol=room)
            if kind == "glb":
                assert result.names == own.names
