"""Real models by others through the whole job, their results opened again."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.inference.geometry import load_mesh, load_skeleton, load_weights
from tests.e2e.conftest import Client
from tests.gltf_validator import errors_and_warnings


def document_of(glb: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<I", glb, 12)
    return dict(json.loads(glb[20 : 20 + length]))


def assert_no_new_issue(glb: Path, original: Path) -> None:
    """The validator finds no error or warning but of kinds that the original has already."""
    known = errors_and_warnings(original) if original.suffix == ".glb" else []
    assert {code for code, _ in errors_and_warnings(glb)} <= {code for code, _ in known}


def read_asset(file: Path, folder: Path) -> None:
    """Reads the file as the worker does: FBX by Blender, GLB by our own reader."""
    command = [sys.executable, "-m", "services.inference.formats.read", str(file), str(folder)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", ["fox.glb", "giraffe.fbx", "human.obj", "spider.fbx", "statue.glb", "tira.fbx"]
)
def test_a_real_model_completes_and_its_results_open_again(
    client: Client, models: Path, name: str, tmp_path: Path
) -> None:
    skeleton = client.finished("skeleton", input_file=client.uploaded(models / name))
    assert skeleton["status"] == "completed", skeleton
    skinning = client.finished("skinning", input_file=skeleton["output_file"])
    assert skinning["status"] == "completed", skinning
    rigged = {}
    for output_format in ("fbx", "glb"):
        merge = client.finished(
            "merge",
            skeleton_file=skeleton["output_file"],
            skinning_file=skinning["output_file"],
            output_format=output_format,
        )
        assert merge["status"] == "completed", merge
        rigged[output_format] = tmp_path / f"rigged.{output_format}"
        rigged[output_format].write_bytes(client.http.get(merge["output_file"]).content)

    assert_no_new_issue(rigged["glb"], models / name)
    document = document_of(rigged["glb"].read_bytes())
    assert document["skins"]
    for artifact in (*skeleton["artifacts"], *skinning["artifacts"]):
        if artifact["format"] == "glb":
            glb = tmp_path / "stage.glb"
            glb.write_bytes(client.http.get(artifact["path"]).content)
            assert_no_new_issue(glb, models / name)

    for file in rigged.values():
        read = tmp_path / file.suffix.lstrip(".")
        read_asset(file, read)
        mesh, joints = load_mesh(read / "mesh.npz"), load_skeleton(read / "skeleton.npz")
        weights = load_weights(read / "weights.npz")
        assert len(joints.names) >= 3
        np.testing.assert_allclose(weights.weights.sum(axis=1), 1, atol=1e-3)
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        room = 0.1 * mesh.extent
        assert (joints.heads > low - room).all()
        assert (joints.heads < high + room).all()


def test_a_vrm_that_is_no_character_is_read_and_answered_with_a_clear_word(
    client: Client, models: Path
) -> None:
    job = client.finished("skeleton", input_file=client.uploaded(models / "small.vrm"))
    # Two quads can follow a bone or two, but they are no humanoid, and the job says so.
    assert job["status"] == "completed"
    assert job["output_file"].endswith("/small_skeleton.glb")
    assert any("VRM needs a humanoid skeleton" in note for note in job["notes"])
