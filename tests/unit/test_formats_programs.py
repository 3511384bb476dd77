"""The read and write steps as the worker runs them: confined, from file to file."""

import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from services.inference.formats.gltf import write_glb_document
from services.inference.geometry import (
    SkinWeights,
    load_mesh,
    load_skeleton,
    load_weights,
    save_mesh,
    save_skeleton,
    save_weights,
)
from services.inference.limited_process import GIB, Limits, StepError, run_step
from tests.gltf_validator import errors_and_warnings
from tests.sample_models import (
    ascii_fbx,
    box_mesh,
    box_obj,
    chain_skeleton,
    dense,
    figure_document,
    human_skeleton,
    smooth_weights,
    write_figure,
)

READ, WRITE = "services.inference.formats.read", "services.inference.formats.write"
LIMITS = Limits(memory_bytes=6 * GIB, cpu_seconds=120, wall_seconds=240, threads=1)


async def step(scratch: Path, module: str, *arguments: str) -> list[tuple[float, str]]:
    seen = []
    await run_step(
        [sys.executable, "-m", module, *arguments],
        scratch=scratch,
        limits=LIMITS,
        on_progress=lambda fraction, message: seen.append((fraction, message)),
    )
    return seen


async def read(scratch: Path, asset: str, folder: str = "model") -> dict:
    await step(scratch, READ, asset, folder)
    return json.loads((scratch / folder / "report.json").read_text())


async def refusal(scratch: Path, asset: str, *options: str) -> StepError:
    with pytest.raises(StepError) as caught:
        await step(scratch, READ, *options, asset, "model")
    return caught.value


async def rig(scratch: Path, asset: str, skeleton, out: str, with_weights: bool = True):
    """Reads the asset, makes up weights, writes out; returns what went in."""
    await read(scratch, asset)
    mesh = load_mesh(scratch / "model" / "mesh.npz")
    skeleton = skeleton(mesh)
    skin = smooth_weights(mesh, skeleton)
    save_skeleton(scratch / "skeleton.npz", skeleton)
    save_weights(scratch / "weights.npz", skin)
    inputs = ["--mesh", "model/mesh.npz", "--skeleton", "skeleton.npz", "--asset", asset]
    if with_weights:
        inputs += ["--weights", "weights.npz"]
    await step(scratch, WRITE, *inputs, out)
    return mesh, skeleton, skin


def assert_same_rig(folder: Path, mesh, skeleton, skin) -> None:
    """What was read into folder is the given rig, whatever the order of its vertices and joints."""
    back, joints = load_mesh(folder / "mesh.npz"), load_skeleton(folder / "skeleton.npz")
    size = mesh.extent
    assert sorted(joints.names) == sorted(skeleton.names)
    order = [joints.names.index(name) for name in skeleton.names]
    np.testing.assert_allclose(joints.heads[order], skeleton.heads, atol=1e-5 * size)
    np.testing.assert_allclose(joints.tails[order], skeleton.tails, atol=1e-5 * size)
    for joint, parent in enumerate(skeleton.parents[1:], 1):
        assert joints.parents[order[joint]] == order[parent]
    for one, other in ((back, mesh), (mesh, back)):
        distance, _ = cKDTree(one.vertices).query(other.vertices)
        assert distance.max() < 1e-5 * size
    if skin is None:
        assert not (folder / "weights.npz").exists()
        return
    weights = dense(load_weights(folder / "weights.npz"), len(order))[:, order]
    given = dense(skin, len(order))
    distance, near = cKDTree(mesh.vertices).query(back.vertices, k=2)
    alone = distance[:, 1] > 1e-5 * size
    np.testing.assert_allclose(weights[alone], given[near[alone, 0]], atol=1e-4)


def copy_asset(source: str, scratch: Path) -> str:
    if source == "boxes.obj":
        (scratch / source).write_bytes(box_obj())
    else:
        write_figure(scratch / source)
    return source


@pytest.mark.parametrize("source", ["boxes.obj", "figure.glb"])
@pytest.mark.parametrize("out", ["out.fbx", "out.glb", "out.obj", "out.vrm"])
async def test_a_rig_survives_being_written_and_read_again(tmp_path, source, out):
    asset = copy_asset(source, tmp_path)
    skeleton = (lambda mesh: human_skeleton()) if out.endswith("vrm") else chain_skeleton
    mesh, skeleton, skin = await rig(tmp_path, asset, skeleton, out)
    report = await read(tmp_path, out, "back")
    assert report["has_skeleton"]
    assert report["has_weights"] == (not out.endswith("obj"))
    assert_same_rig(tmp_path / "back", mesh, skeleton, skin if report["has_weights"] else None)


@pytest.mark.parametrize("out", ["out.fbx", "out.glb"])
async def test_a_skeleton_without_weights_survives_too(tmp_path, out):
    asset = copy_asset("boxes.obj", tmp_path)
    mesh, skeleton, _ = await rig(tmp_path, asset, chain_skeleton, out, with_weights=False)
    await read(tmp_path, out, "back")
    assert_same_rig(tmp_path / "back", mesh, skeleton, None)


def edit_in_blender(file: Path, out: Path) -> None:
    edits = json.dumps({"renamed": {"b": "c"}, "moved": {}, "added": {"x": "a"}})
    command = [sys.executable, "-m", "tests.edit_in_blender", str(file), str(out), edits]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)


async def test_only_what_another_exporter_hung_on_a_last_bone_is_taken_for_its_end(tmp_path):
    asset = copy_asset("boxes.obj", tmp_path)

    def ending(mesh):
        return replace(chain_skeleton(mesh), names=("a", "b", "tail", "tail_end"))

    mesh, skeleton, _ = await rig(tmp_path, asset, ending, "out.fbx", with_weights=False)
    await read(tmp_path, "out.fbx", "ours")
    assert_same_rig(tmp_path / "ours", mesh, skeleton, None)
    edit_in_blender(tmp_path / "out.fbx", tmp_path / "theirs.fbx")
    await read(tmp_path, "theirs.fbx", "theirs")
    theirs = load_skeleton(tmp_path / "theirs" / "skeleton.npz")
    assert theirs.names == ("a", "c", "tail", "tail_end", "x")
    np.testing.assert_allclose(theirs.tails[4] - theirs.heads[4], (0, 0.1, 0), atol=1e-5)


@pytest.mark.parametrize("out", ["out.fbx", "out.glb", "out.obj", "out.vrm"])
async def test_arrays_alone_can_be_written(tmp_path, out):
    mesh, skeleton = box_mesh(), human_skeleton()
    skin = smooth_weights(mesh, skeleton)
    save_mesh(tmp_path / "mesh.npz", mesh)
    save_skeleton(tmp_path / "skeleton.npz", skeleton)
    save_weights(tmp_path / "weights.npz", skin)
    arrays = ["--mesh", "mesh.npz", "--skeleton", "skeleton.npz", "--weights", "weights.npz"]
    seen = await step(tmp_path, WRITE, *arrays, out)
    assert seen[-1][0] == 1.0
    report = await read(tmp_path, out, "back")
    assert report["parts"] == 2
    assert_same_rig(tmp_path / "back", mesh, skeleton, skin if report["has_weights"] else None)


async def test_an_fbx_goes_round_through_every_format(tmp_path):
    asset = copy_asset("figure.glb", tmp_path)
    await rig(tmp_path, asset, chain_skeleton, "one.fbx")
    mesh, skeleton, skin = await rig(tmp_path, "one.fbx", lambda _: human_skeleton(), "two.fbx")
    await read(tmp_path, "two.fbx", "fbx")
    assert_same_rig(tmp_path / "fbx", mesh, skeleton, skin)
    assert bytes(tmp_path) not in (tmp_path / "two.fbx").read_bytes()
    mesh, skeleton, skin = await rig(tmp_path, "two.fbx", chain_skeleton, "three.glb")
    await read(tmp_path, "three.glb", "glb")
    assert_same_rig(tmp_path / "glb", mesh, skeleton, skin)
    assert b"image/png" in (tmp_path / "three.glb").read_bytes()  # the texture came all the way


@pytest.mark.parametrize("out", ["out.fbx", "out.glb"])
async def test_parts_of_an_fbx_at_one_place_keep_weights_of_their_own(tmp_path, out):
    await rig(tmp_path, copy_asset("boxes.obj", tmp_path), chain_skeleton, "boxes.fbx")
    await read(tmp_path, "boxes.fbx")
    mesh = load_mesh(tmp_path / "model" / "mesh.npz")
    joint_of = {"lower": 0, "upper": 3}
    joints = np.zeros((len(mesh.vertices), 1), np.int32)
    for part, name in enumerate(mesh.part_names):
        joints[mesh.faces[mesh.parts == part]] = joint_of[name]
    skin = SkinWeights(joints, np.ones_like(joints, np.float32))
    save_weights(tmp_path / "weights.npz", skin)
    arrays = ["--mesh", "model/mesh.npz", "--skeleton", "skeleton.npz", "--weights", "weights.npz"]
    await step(tmp_path, WRITE, *arrays, "--asset", "boxes.fbx", out)
    await read(tmp_path, out, "back")
    back = load_mesh(tmp_path / "back" / "mesh.npz")
    weights = load_weights(tmp_path / "back" / "weights.npz")
    for part, name in enumerate(back.part_names):
        used = np.unique(back.faces[back.parts == part])
        assert (weights.joints[used, 0] == joint_of[name]).all()


@pytest.mark.parametrize("kind", ["glb", "fbx", "vrm"])
@pytest.mark.parametrize("content", [b"", b"glTF", b"nonsense" * 100, bytes(100_000)])
async def test_nonsense_is_refused(tmp_path, kind, content):
    (tmp_path / f"model.{kind}").write_bytes(content)
    error = await refusal(tmp_path, f"model.{kind}")
    assert error.code == "INVALID_MESH"
    assert "file" in error.detail


@pytest.mark.parametrize("kind", ["glb", "fbx"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
async def test_a_file_that_is_cut_off_is_refused(tmp_path, kind, share):
    whole = copy_asset("figure.glb", tmp_path)
    if kind == "fbx":
        await rig(tmp_path, whole, chain_skeleton, "whole.fbx")
        whole = "whole.fbx"
    data = (tmp_path / whole).read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(data[: int(len(data) * share)])
    error = await refusal(tmp_path, f"cut.{kind}")
    assert error.code == "INVALID_MESH"
    assert "truncated" in error.detail


async def test_damaged_arrays_inside_an_fbx_do_not_end_the_worker(tmp_path):
    await rig(tmp_path, copy_asset("figure.glb", tmp_path), chain_skeleton, "whole.fbx")
    data = bytearray((tmp_path / "whole.fbx").read_bytes())
    start = data.index(b"PolygonVertexIndex")
    data[start + 30 : start + 60] = b"\xff" * 30
    (tmp_path / "damaged.fbx").write_bytes(data)
    assert (await refusal(tmp_path, "damaged.fbx")).code == "INVALID_MESH"


async def test_too_many_triangles_are_refused_before_they_are_loaded(tmp_path):
    await rig(tmp_path, copy_asset("figure.glb", tmp_path), chain_skeleton, "figure.fbx")
    for asset, count in (("figure.glb", "24"), ("figure.fbx", "")):
        error = await refusal(tmp_path, asset, "--max-triangles", "7")
        assert error.code == "INVALID_MESH"
        assert f"{count} triangles" in error.detail
        assert "at most 7" in error.detail


async def test_a_huge_description_is_refused(tmp_path):
    text = b'{"asset":{"version":"2.0"},"nodes":[' + b"{}," * 30_000_000 + b"{}]}"
    text += b" " * (-len(text) % 4)
    header = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A)
    (tmp_path / "bomb.glb").write_bytes(header + text)
    error = await refusal(tmp_path, "bomb.glb")
    assert "too large" in error.detail


async def test_a_deeply_nested_description_is_refused(tmp_path):
    text = b'{"asset":' + b"[" * 400_000
    text += b" " * (-len(text) % 4)
    header = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A)
    (tmp_path / "deep.glb").write_bytes(header + text)
    assert (await refusal(tmp_path, "deep.glb")).code == "INVALID_MESH"


async def test_an_unknown_ending_is_refused(tmp_path):
    (tmp_path / "model.stl").write_bytes(b"solid")
    assert (await refusal(tmp_path, "model.stl")).code == "INVALID_FILE_FORMAT"


@pytest.mark.parametrize("out", ["out.fbx", "out.glb"])
async def test_an_ascii_fbx_is_read_and_pictures_of_the_host_stay_out(tmp_path, out):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    picture = tmp_path / "secret.png"
    secret = secret_png()
    picture.write_bytes(secret)
    (scratch / "near.png").write_bytes(secret)
    for name, place in (("far", picture), ("near", "near.png")):
        (scratch / f"{name}.fbx").write_text(ascii_fbx(str(place)))
        mesh, skeleton, skin = await rig(scratch, f"{name}.fbx", chain_skeleton, out)
        assert mesh.faces.shape == (4, 3)
        np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), [1, 2, 3], atol=1e-6)
        assert secret[60:120] not in (scratch / out).read_bytes()
        assert b"secret" not in (scratch / out).read_bytes()
        await read(scratch, out, f"back-{name}")
        assert_same_rig(scratch / f"back-{name}", mesh, skeleton, skin)


def secret_png() -> bytes:
    """A picture of noise, which no file holds by accident."""
    import zlib

    pixels = b"".join(b"\0" + os.urandom(96) for _ in range(32))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(pixels, 0)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize(
    ("name", "report"),
    [
        ("fox.glb", {"triangles": 576, "has_skeleton": True, "has_weights": True}),
        ("giraffe.fbx", {"triangles": 20693, "has_skeleton": True, "has_weights": False}),
        ("human.obj", {"triangles": 48918, "has_skeleton": False, "has_weights": False}),
        ("small.vrm", {"triangles": 6, "parts": 3, "has_weights": False}),
        ("spider.fbx", {"triangles": 1368, "parts": 19, "has_skeleton": False}),
        ("statue.glb", {"triangles": 16259, "parts": 5, "has_skeleton": False}),
        ("tira.fbx", {"triangles": 49543, "has_skeleton": True, "has_weights": False}),
    ],
)
async def test_real_models_are_read_and_rigged_in_another_format(tmp_path, models, name, report):
    shutil.copyfile(models / name, tmp_path / name)
    seen = await read(tmp_path, name)
    assert {key: seen[key] for key in report} == report
    out = "out.fbx" if name.endswith("glb") else "out.glb"
    mesh, skeleton, skin = await rig(tmp_path, name, chain_skeleton, out)
    if out.endswith("glb") and not name.endswith("vrm"):
        assert errors_and_warnings(tmp_path / out) == []
    await read(tmp_path, out, "back")
    assert_same_rig(tmp_path / "back", mesh, skeleton, skin)


async def test_a_glb_compressed_with_draco_is_read_and_rigged(tmp_path):
    asset = copy_asset("figure.glb", tmp_path)
    compress = (
        "import bpy; bpy.ops.wm.read_factory_settings(use_empty=True);"
        f"bpy.ops.import_scene.gltf(filepath='{asset}');"
        "bpy.ops.export_scene.gltf(filepath='draco.glb', export_animations=False,"
        " export_draco_mesh_compression_enable=True)"
    )
    await run_step(
        [sys.executable, "-c", compress],
        scratch=tmp_path,
        limits=LIMITS,
        on_progress=lambda fraction, message: None,
    )
    assert b"KHR_draco_mesh_compression" in (tmp_path / "draco.glb").read_bytes()
    for out in ("out.glb", "out.fbx"):
        mesh, skeleton, skin = await rig(tmp_path, "draco.glb", chain_skeleton, out)
        assert len(mesh.faces) == 24
        await read(tmp_path, out, f"back-{out}")
        assert_same_rig(tmp_path / f"back-{out}", mesh, skeleton, skin)


async def test_a_file_over_which_blender_stumbles_is_refused_in_words(tmp_path):
    document = figure_document()
    broken = {"KHR_materials_specular": {"specularTexture": {"index": 99}}}
    document.json["materials"][0]["extensions"] = broken
    write_glb_document(tmp_path / "figure.glb", document)
    with pytest.raises(StepError) as caught:
        await rig(tmp_path, "figure.glb", chain_skeleton, "out.fbx")
    assert caught.value.code == "INVALID_MESH"
    assert caught.value.detail.startswith("The file could not be read: it is damaged")
