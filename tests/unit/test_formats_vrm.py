"""VRM: which joint is which part of a body, and what stays of the original."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh

from services.inference.formats.glb import read_glb
from services.inference.formats.gltf import accessor_array, read_glb_document
from services.inference.formats.program_output import Refusal
from services.inference.formats.rigged_glb import glb_of_mesh
from services.inference.formats.vrm import HUMAN_BONES, human_bones
from services.inference.formats.write import rig_document
from services.inference.geometry import Skeleton
from tests.sample_models import (
    box_mesh,
    chain_skeleton,
    dense,
    figure_document,
    human_skeleton,
    smooth_weights,
)

LIMIT = 1000


def as_vrm(document, path):
    mesh = read_glb(document, LIMIT).mesh
    skeleton = human_skeleton()
    rig_document(document, path, mesh, skeleton, smooth_weights(mesh, skeleton), LIMIT)
    return read_glb_document(path)


def test_our_joint_names_are_the_human_bones_of_vrm():
    bones = human_bones(human_skeleton())
    assert set(bones) <= set(HUMAN_BONES)
    names = human_skeleton().names
    assert names[bones["leftUpperArm"]] == "left_upper_arm"
    assert names[bones["rightToes"]] == "right_toes"
    assert len(bones) == len(names)


def test_a_finger_without_its_first_bone_is_not_listed():
    names = ("hips", "left_index_intermediate")
    skeleton = Skeleton(names, np.array([-1, 0], np.int32), np.zeros((2, 3)), np.ones((2, 3)))
    assert set(human_bones(skeleton)) == {"hips"}


def test_a_skeleton_that_is_no_body_is_refused_with_what_is_missing(tmp_path):
    mesh = box_mesh()
    with pytest.raises(Refusal, match="missing hips, spine, head") as caught:
        rig_document(
            glb_of_mesh(mesh), tmp_path / "out.vrm", mesh, chain_skeleton(mesh), None, LIMIT
        )
    assert caught.value.code == "INVALID_MESH"


def test_a_plain_model_becomes_a_vrm_with_neutral_meta(tmp_path):
    document = as_vrm(figure_document(), tmp_path / "out.vrm")
    extension = document.json["extensions"]["VRMC_vrm"]
    assert extension["specVersion"] == "1.0"
    assert extension["meta"]["licenseUrl"] == "https://vrm.dev/licenses/1.0/"
    assert extension["meta"]["authors"]
    nodes = document.json["nodes"]
    bones = {
        bone: nodes[at["node"]]["name"] for bone, at in extension["humanoid"]["humanBones"].items()
    }
    assert bones["hips"] == "hips"
    assert bones["rightLowerLeg"] == "right_lower_leg"
    assert document.json["extensionsUsed"].count("VRMC_vrm") == 1


VRM1_META = {
    "name": "Figure",
    "authors": ["Somebody"],
    "licenseUrl": "https://vrm.dev/licenses/1.0/",
}


def vrm1_document():
    document = figure_document()
    smile = {"morphTargetBinds": [{"node": 2, "index": 0, "weight": 1.0}]}
    document.json["extensionsUsed"] += ["VRMC_vrm", "VRMC_springBone"]
    document.json["extensions"] = {
        "VRMC_vrm": {
            "specVersion": "1.0",
            "meta": VRM1_META,
            "humanoid": {"humanBones": {"hips": {"node": 0}}},
            "expressions": {"preset": {"happy": smile}},
            "firstPerson": {"meshAnnotations": [{"node": 1, "type": "both"}]},
        },
        "VRMC_springBone": {"specVersion": "1.0", "springs": [{"joints": [{"node": 3}]}]},
    }
    return document


def test_meta_and_expressions_of_a_vrm_1_stay(tmp_path):
    result = as_vrm(vrm1_document(), tmp_path / "out.vrm").json
    extension = result["extensions"]["VRMC_vrm"]
    assert extension["meta"] == VRM1_META
    (bind,) = extension["expressions"]["preset"]["happy"]["morphTargetBinds"]
    assert result["nodes"][bind["node"]]["name"] == "second"
    assert "skin" in result["nodes"][bind["node"]]
    (annotation,) = extension["firstPerson"]["meshAnnotations"]
    assert "skin" in result["nodes"][annotation["node"]]
    assert "VRMC_springBone" not in result["extensions"]
    assert "VRMC_springBone" not in result["extensionsUsed"]


def vrm0_document():
    document = figure_document()
    document.json["extensionsUsed"].append("VRM")
    document.json["extensions"] = {
        "VRM": {
            "meta": {
                "title": "Old figure",
                "author": "Somebody",
                "texture": 0,
                "allowedUserName": "Everyone",
            },
            "humanoid": {"humanBones": []},
        }
    }
    return document


def test_a_vrm_0_faces_the_other_way_and_is_turned():
    turned, plain = read_glb(vrm0_document(), LIMIT), read_glb(figure_document(), LIMIT)
    np.testing.assert_allclose(turned.mesh.vertices, plain.mesh.vertices * [-1, 1, -1], atol=1e-6)
    assert "turned" in " ".join(turned.notes)


def test_a_vrm_0_becomes_a_vrm_1_that_faces_forward_with_its_vertices_untouched(tmp_path):
    source = vrm0_document()
    before = read_glb(source, LIMIT).mesh
    document = as_vrm(source, tmp_path / "out.vrm")
    after = read_glb(document, LIMIT)
    np.testing.assert_allclose(after.mesh.vertices, before.vertices, atol=1e-5)
    meta = document.json["extensions"]["VRMC_vrm"]["meta"]
    assert (meta["name"], meta["authors"]) == ("Old figure", ["Somebody"])
    assert meta["avatarPermission"] == "everyone"
    assert meta["thumbnailImage"] == 0
    assert "VRM" not in document.json["extensions"]
    corners = accessor_array(figure_document(), 0)
    position = document.json["meshes"][0]["primitives"][0]["attributes"]["POSITION"]
    np.testing.assert_array_equal(accessor_array(document, position), corners)


def test_a_glb_made_of_a_vrm_claims_nothing_about_a_body(tmp_path):
    document = vrm0_document()
    mesh = read_glb(document, LIMIT).mesh
    rig_document(document, tmp_path / "out.glb", mesh, chain_skeleton(mesh), None, LIMIT)
    assert "VRM" not in (tmp_path / "out.glb").read_bytes().decode("latin-1")


def test_the_humanoid_of_an_unskinned_vrm_is_read_as_a_skeleton():
    document = figure_document()
    document.json["extensions"] = {
        "VRMC_vrm": {
            "specVersion": "1.0",
            "humanoid": {"humanBones": {"hips": {"node": 0}, "head": {"node": 3}}},
        }
    }
    model = read_glb(document, LIMIT)
    assert model.skeleton.names == ("group", "eye")
    assert model.skeleton.parents.tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("document", "name", "expressions"),
    [
        (figure_document, "Rigged model", []),
        (vrm1_document, "Figure", ["happy"]),
        (vrm0_document, "Old figure", []),
    ],
)
def test_three_vrm_opens_it_and_moves_its_bones(tmp_path, document, name, expressions):
    path, angle = tmp_path / "out.vrm", 0.9
    mesh, skeleton = read_glb(document(), LIMIT).mesh, human_skeleton()
    skin = smooth_weights(mesh, skeleton)
    as_vrm(document(), path)
    done = subprocess.run(
        ["node", "open_vrm.mjs", path, "leftUpperArm", str(angle)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)
    assert seen["version"] == "1"
    assert seen["meta"]["name"] == name
    assert seen["meta"]["authors"]
    assert seen["expressions"] == expressions
    joint = skeleton.names.index("left_upper_arm")
    assert seen["bones"] == {bone: skeleton.names[at] for bone, at in human_bones(skeleton).items()}
    below = [skeleton.names.index(f"left_{part}") for part in ("upper_arm", "lower_arm", "hand")]
    share = dense(skin, len(skeleton.names))[:, below].sum(axis=1, keepdims=True)
    rotation = trimesh.transformations.rotation_matrix(angle, [0, 0, 1], skeleton.heads[joint])
    turned = trimesh.transform_points(mesh.vertices, rotation)
    expected = (1 - share) * mesh.vertices + share * turned
    for when, positions in (("rest", mesh.vertices), ("posed", expected)):
        found = np.concatenate([seen[when][part] for part in sorted(seen[when])])
        np.testing.assert_allclose(found, positions, atol=1e-4)
