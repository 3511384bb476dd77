"""Results as others see them: the Khronos validator, three.js and trimesh."""

import json
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import trimesh

from services.inference.formats.glb import read_glb
from services.inference.formats.gltf import read_glb_document
from services.inference.formats.rigged_glb import glb_of_mesh
from services.inference.formats.write import rig_document
from tests.gltf_validator import errors_and_warnings
from tests.sample_models import (
    box_mesh,
    chain_skeleton,
    dense,
    figure_document,
    human_skeleton,
    smooth_weights,
)

TESTS = Path(__file__).parents[1]
LIMIT = 100_000


def node(*arguments: str) -> dict:
    done = subprocess.run(
        ["node", *arguments], cwd=TESTS, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def rigged(document, path: Path, skeleton=None):
    mesh = read_glb(document, LIMIT).mesh
    skeleton = skeleton or chain_skeleton(mesh)
    skin = smooth_weights(mesh, skeleton)
    rig_document(document, path, mesh, skeleton, skin, LIMIT)
    return mesh, skeleton, skin


DOCUMENTS = {"boxes": lambda: glb_of_mesh(box_mesh()), "figure": figure_document}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("ending", ["glb", "vrm"])
def test_the_khronos_validator_finds_neither_error_nor_warning(tmp_path, name, ending):
    path = tmp_path / f"out.{ending}"
    skeleton = human_skeleton()
    rigged(DOCUMENTS[name](), path, skeleton)
    assert errors_and_warnings(path) == []
    rigged(read_glb_document(path), path, skeleton)
    assert errors_and_warnings(path) == []


def test_a_skeleton_without_weights_is_valid_too(tmp_path):
    path = tmp_path / "skeleton.glb"
    rig_document(glb_of_mesh(box_mesh()), path, box_mesh(), chain_skeleton(box_mesh()), None, LIMIT)
    assert errors_and_warnings(path) == []


@pytest.mark.parametrize("name", ["fox.glb", "statue.glb", "small.vrm"])
def test_real_models_get_no_error_or_warning_that_they_did_not_have(tmp_path, models, name):
    path = tmp_path / "out.glb"
    rigged(read_glb_document(models / name), path)
    before = Counter(code for code, _ in errors_and_warnings(models / name))
    assert not Counter(code for code, _ in errors_and_warnings(path)) - before


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_mesh_follows_its_joints_in_three_js(tmp_path, name):
    path = tmp_path / "out.glb"
    mesh, skeleton, skin = rigged(DOCUMENTS[name](), path)
    joint, angle = 2, 0.9
    seen = node("pose_model.mjs", str(path), skeleton.names[joint], str(angle))
    assert seen["names"] == list(skeleton.names)
    rotation = trimesh.transformations.rotation_matrix(angle, [0, 0, 1], skeleton.heads[joint])
    share = dense(skin, len(skeleton.names))[:, joint:].sum(axis=1, keepdims=True)
    turned = trimesh.transform_points(mesh.vertices, rotation)
    expected = (1 - share) * mesh.vertices + share * turned
    parts = [node["name"] for node in read_glb_document(path).json["nodes"] if "mesh" in node]
    for when, positions in (("rest", mesh.vertices), ("posed", expected)):
        found = np.concatenate([seen[when][part] for part in sorted(parts)])
        np.testing.assert_allclose(found, positions, atol=1e-4)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_trimesh_opens_the_result(tmp_path, name):
    path = tmp_path / "out.glb"
    mesh, *_ = rigged(DOCUMENTS[name](), path)
    assert len(trimesh.load(path, force="mesh").faces) == len(mesh.faces)
