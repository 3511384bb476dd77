"""What stands beside the engines in the benchmark of rigs, and what their processes cost."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from services.inference.engine import GeometricEngine
from services.inference.formats.glb import read_glb
from services.inference.formats.write import rig_document
from tests.bench.rig_quality.metrics import dense_weights, unweighted
from tests.bench.rig_quality.nearest_bone import nearest_bone
from tests.bench.rig_quality.programs import (
    blender_weights,
    engine_skeleton,
    engine_weights,
    measured,
    read_model,
)
from tests.generated_bodies import as_mesh, capsule, chain_of, person, triangles
from tests.sample_models import chain_skeleton, figure_document, smooth_weights


def test_the_nearest_bone_takes_the_whole_vertex() -> None:
    mesh = triangles([[0.1, 0.1, 0], [0.9, 0.1, 0], [1.8, 0.1, 0]], [[0, 1, 2]])
    skeleton = chain_of((0, 0, 0), (0.5, 0, 0), (1.5, 0, 0), (2, 0, 0))
    skin = nearest_bone(mesh, skeleton)
    assert skin.joints.tolist() == [[0], [1], [2]]
    assert skin.weights.tolist() == [[1], [1], [1]]


async def test_blender_weighs_a_clean_body(tmp_path: Path) -> None:
    mesh = as_mesh(capsule((0, 0, 0), (0, 2, 0), 0.2))
    skeleton = chain_of((0, 0, 0), (0, 1, 0), (0, 2, 0))
    skin, cost = await blender_weights(mesh, skeleton, tmp_path)
    weights = dense_weights(skin, 2)
    assert unweighted(weights) == 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert weights[mesh.vertices[:, 1] < 0.3, 0].min() > 0.8
    assert weights[mesh.vertices[:, 1] > 1.7, 1].min() > 0.8
    assert cost.mebibytes > 100


async def test_a_models_own_rig_is_the_reference_where_it_fits_the_mesh(tmp_path: Path) -> None:
    mesh = read_glb(figure_document(), 1000).mesh
    skeleton = chain_skeleton(mesh)
    far = replace(skeleton, heads=skeleton.heads + 10, tails=skeleton.tails + 10)
    for name, rig in (("fits", skeleton), ("far", far)):
        asset = tmp_path / f"{name}.glb"
        rig_document(figure_document(), asset, mesh, rig, smooth_weights(mesh, skeleton), 1000)
        (tmp_path / name).mkdir()
        model = await read_model(asset, tmp_path / name)
        np.testing.assert_allclose(model.mesh.vertices, mesh.vertices, atol=1e-6)
        assert (model.skeleton is not None) == (model.skin is not None) == (name == "fits")


async def test_the_engine_runs_as_in_a_job(tmp_path: Path) -> None:
    engine = GeometricEngine()
    skeleton, cost = await engine_skeleton(engine, person(), tmp_path)
    assert "hips" in {name.lower() for name in skeleton.names}
    skin, _ = await engine_weights(engine, person(), skeleton, tmp_path)
    assert len(skin.joints) == len(person().vertices)
    assert cost.cpu_seconds > 0
    assert 20 < cost.mebibytes < 2000


async def test_a_child_costs_what_it_takes_at_its_peak() -> None:
    program = "import time; block = bytearray(b'1') * 300_000_000; del block; time.sleep(0.5)"
    async with measured() as cost:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
        await process.wait()
    assert 286 < cost.mebibytes < 400
