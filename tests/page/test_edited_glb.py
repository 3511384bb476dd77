"""A skeleton as the page's functions edit it, and what the service makes of the file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.cli.character import write_character
from services.cli.stack import Stack
from services.inference.formats.gltf import read_json
from services.inference.geometry import Skeleton, load_skeleton
from tests.e2e.conftest import Client
from tests.gltf_validator import errors_and_warnings

ROOT = Path(__file__).parents[2]
UP = [0.0, 0.03, 0.0]


def edited_in_page(file: Path, edited: Path, edits: list[Any]) -> list[dict[str, Any]]:
    """The joints as the page has them, in their order."""
    command = ["node", "tests/edit_in_page.mjs", str(file), str(edited), json.dumps(edits)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return list(json.loads(done.stdout))


def skeleton_in(file: Path) -> Skeleton:
    command = [sys.executable, "-m", "services.inference.formats.read", file]
    folder = file.with_suffix(".read")
    subprocess.run([*command, folder], cwd=ROOT, check=True, capture_output=True)
    return load_skeleton(folder / "skeleton.npz")


def downloaded(client: Client, job: dict[str, Any], folder: Path) -> Path:
    assert job["status"] == "completed", job
    (path,) = [item["path"] for item in job["artifacts"] if item["format"] == "glb"]
    file = folder / f"{job['job_id']}.glb"
    file.write_bytes(client.http.get(path).content)
    return file


@pytest.mark.timeout(600)
def test_every_edit_comes_out_of_skinning_and_merge_as_it_went_in(
    stack: Stack, tmp_path: Path
) -> None:
    client = Client(stack.url)
    write_character(tmp_path / "character.glb")
    original = client.uploaded(tmp_path / "character.glb")
    rigged = downloaded(client, client.finished("skeleton", input_file=original), tmp_path)
    before = skeleton_in(rigged)
    heads = dict(zip(before.names, before.heads.astype(float), strict=True))

    edited = tmp_path / "edited.glb"
    joints = edited_in_page(
        *(rigged, edited),
        [
            ["moved", "left_lower_arm", (heads["left_lower_arm"] + UP).tolist()],
            ["mirrored", "left_lower_arm"],
            ["renamed", "neck", "Hals (mine)"],
            ["withChild", "left_toes"],
            ["withoutLeaf", "right_toes"],
        ],
    )
    names = [joint["name"] for joint in joints]
    kept = [{"neck": "Hals (mine)"}.get(name, name) for name in before.names]
    kept.insert(kept.index("left_toes") + 1, "left_toes_1")
    kept.remove("right_toes")
    assert names == kept
    places = np.array([joint["head"] for joint in joints])
    for side in ("left", "right"):
        moved = places[names.index(f"{side}_lower_arm")] - heads[f"{side}_lower_arm"]
        np.testing.assert_allclose(moved, UP, atol=0.01)
    assert errors_and_warnings(edited) == errors_and_warnings(rigged)

    upload = client.uploaded(edited)
    skinning = client.finished("skinning", input_file=upload)
    merge = client.finished(
        "merge",
        skeleton_file=upload,
        skinning_file=skinning["output_file"],
        target_file=original,
        output_format="glb",
    )
    for file in (
        edited,
        downloaded(client, skinning, tmp_path),
        downloaded(client, merge, tmp_path),
    ):
        skeleton = skeleton_in(file)
        assert list(skeleton.names) == names
        parents = [names[parent] if parent >= 0 else None for parent in skeleton.parents]
        assert parents == [joint["parent"] for joint in joints]
        room = 1e-4 * float(np.ptp(places, axis=0).max())
        np.testing.assert_allclose(skeleton.heads, places, atol=room)
        tails = [joint["tail"] for joint in joints]
        np.testing.assert_allclose(skeleton.tails, tails, atol=room)
        for key in ("materials", "textures", "images"):
            assert len(read_json(file)[key]) == len(read_json(tmp_path / "character.glb")[key])
