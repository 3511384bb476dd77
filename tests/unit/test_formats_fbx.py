"""An FBX result as others see it: Blender's two importers, three.js, and the file's own records."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from services.inference.formats.gltf import WHITE_PIXEL_PNG
from services.inference.geometry import (
    Mesh,
    Skeleton,
    SkinWeights,
    load_mesh,
    save_skeleton,
    save_weights,
)
from tests.sample_models import (
    box_obj,
    chain_skeleton,
    dense,
    human_skeleton,
    smooth_weights,
    write_figure,
)

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
IMPORTERS = ("import_scene.fbx", "wm.fbx_import")


class Written(NamedTuple):
    """An FBX of ours, what it was made of, and what Blender sees in it (open_in_blender.py)."""

    path: Path
    mesh: Mesh
    skeleton: Skeleton
    skin: SkinWeights
    seen: dict[str, Any]


def program(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", *map(str, arguments)], cwd=ROOT, check=True)


@pytest.fixture(scope="module", params=["boxes.obj", "figure.glb"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("fbx")
    asset = folder / request.param
    if asset.suffix == ".obj":
        asset.write_bytes(box_obj())
    else:
        write_figure(asset)
    program("services.inference.formats.read", asset, folder / "model")
    mesh = load_mesh(folder / "model" / "mesh.npz")
    skeleton = human_skeleton() if asset.suffix == ".glb" else chain_skeleton(mesh)
    skin = smooth_weights(mesh, skeleton)
    save_skeleton(folder / "skeleton.npz", skeleton)
    save_weights(folder / "weights.npz", skin)
    program(
        *("services.inference.formats.write", "--asset", asset),
        *("--mesh", folder / "model" / "mesh.npz"),
        *("--skeleton", folder / "skeleton.npz", "--weights", folder / "weights.npz"),
        folder / "out.fbx",
    )
    program("tests.open_in_blender", folder / "out.fbx", folder / "seen.json")
    seen = json.loads((folder / "seen.json").read_text())
    return Written(folder / "out.fbx", mesh, skeleton, skin, seen)


@pytest.mark.parametrize("importer", IMPORTERS)
def test_blender_finds_one_armature_and_no_mesh_but_the_models(written, importer):
    objects = written.seen[importer]["objects"]
    kinds = [item["type"] for item in objects.values()]
    assert kinds.count("ARMATURE") == 1
    assert kinds.count("MESH") == len(written.mesh.part_names)
    assert objects["Armature"]["type"] == "ARMATURE"
    assert objects["Armature"]["turned"] == pytest.approx(0, abs=1e-3)
    for name, item in objects.items():
        if item["type"] in ("ARMATURE", "MESH"):
            np.testing.assert_allclose(item["scale"], 1, atol=1e-6, err_msg=name)
        if item["type"] == "MESH":
            assert item["follows"] == ["Armature"], name


@pytest.mark.parametrize("importer", IMPORTERS)
def test_blender_finds_the_skeleton_and_no_leaf_bones(written, importer):
    skeleton, bones = written.skeleton, written.seen[importer]["bones"]
    assert set(bones) == set(skeleton.names)
    for joint, name in enumerate(skeleton.names):
        parent, head = bones[name]
        assert parent == (skeleton.names[skeleton.parents[joint]] if joint else None)
        np.testing.assert_allclose(head, skeleton.heads[joint], atol=1e-5)


@pytest.mark.parametrize("importer", IMPORTERS)
def test_blender_finds_the_mesh_in_its_place_with_its_weights(written, importer):
    mesh, names = written.mesh, written.skeleton.names
    meshes = written.seen[importer]["meshes"].values()
    vertices = np.concatenate([item["vertices"] for item in meshes])
    assert len(vertices) == len(mesh.vertices)
    distances, nearest = cKDTree(mesh.vertices).query(vertices)
    assert distances.max() < 1e-5
    weights = [row for item in meshes for row in item["weights"]]
    found = np.array([[row.get(name, 0.0) for name in names] for row in weights])
    np.testing.assert_allclose(found, dense(written.skin, len(names))[nearest], atol=1e-5)


@pytest.mark.parametrize("importer", IMPORTERS)
def test_blender_finds_materials_and_the_pictures_inside_the_file(written, importer):
    seen = written.seen[importer]
    textured = written.mesh.part_names != ("lower", "upper")
    assert seen["images"] == ([WHITE_PIXEL_PNG.hex()] if textured else [])
    for item in seen["meshes"].values():
        assert list(item["materials"]) == ["skin" if textured else "paint"]
        assert all(bool(image) == textured for image in item["materials"].values())
        assert len(item["uvs"]) == 1


def test_the_file_says_metres_and_y_up(written):
    """
    Axes: those of Maya and of the FBX SDK, right-handed with Y up and Z to the viewer ("Scene Axis
    and Unit Conversion", FBX SDK Developer Help), which Unity and Unreal convert on import.
    Unit: a UnitScaleFactor of 100 is 100 centimetres, the SDK's unit. Unity then scales by 1
    ("ModelImporter.fileScale: the multiplier that converts the unit of the FBX file to metres"),
    Maya by its "Automatic" conversion (Maya FBX plug-in, "Units"), Unreal by "Convert Scene Unit",
    which is on in Interchange and off in the importer before it (FbxAssetImportData).
    """
    settings = written.seen["records"]["settings"]
    axes = {"UpAxis": 1, "FrontAxis": 2, "CoordAxis": 0}
    expected = axes | {f"{axis}Sign": 1 for axis in axes} | {"UnitScaleFactor": 100.0}
    assert {key: settings[key] for key in expected} == expected


def test_the_file_has_a_bind_pose_of_the_whole_skeleton_for_each_mesh(written):
    joints, meshes = len(written.skeleton.names), len(written.mesh.part_names)
    records = written.seen["records"]
    whole = joints + 2  # the armature and the mesh
    assert [count for count in records["posed"] if count > 1] == [whole] * meshes
    kinds = [tuple(kind) for kind in records["kinds"]]
    assert kinds.count(("Model", "LimbNode")) == joints
    assert kinds.count(("Deformer", "Skin")) == meshes
    assert kinds.count(("Deformer", "Cluster")) == joints * meshes


def test_the_mesh_follows_its_joints_in_three_js(written):
    mesh, skeleton, joint, angle = written.mesh, written.skeleton, 1, 0.9
    done = subprocess.run(
        ["node", "pose_model.mjs", written.path, skeleton.names[joint], str(angle)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)
    assert sorted(seen["names"]) == sorted(skeleton.names)
    assert len(seen["rest"]) == len(mesh.part_names)
    assert len(seen["textured"]) == (0 if mesh.part_names == ("lower", "upper") else 2)
    below = np.zeros(len(skeleton.names), bool)
    below[joint] = True
    for child in range(joint + 1, len(below)):
        below[child] = below[skeleton.parents[child]]
    share = dense(written.skin, len(below))[:, below].sum(axis=1, keepdims=True)
    rotation = trimesh.transformations.rotation_matrix(angle, [0, 0, 1], skeleton.heads[joint])
    turned = trimesh.transform_points(mesh.vertices, rotation)
    expected = (1 - share) * mesh.vertices + share * turned
    rest, posed = (np.concatenate(list(seen[when].values())) for when in ("rest", "posed"))
    distances, nearest = cKDTree(mesh.vertices).query(rest)
    assert distances.max() < 1e-4
    assert len(np.unique(nearest)) == len(np.unique(mesh.vertices, axis=0))
    np.testing.assert_allclose(posed, expected[nearest], atol=1e-4)
