"""Measures how good rigs are, on models with a rig of their own and on generated bodies.

    make bench-rig MODELS=DIR        or: python -m tests.bench.rig_quality --models DIR

Every model's own skeleton and weights are the reference; the engines see its mesh alone. Weights
are made for the reference's skeleton, or for the geometric engine's where there is none. Beside
the engine's stand rigid weights by the nearest bone and Blender's automatic weights; the neural
engine takes part where --checkpoints names its folder. docs/rig_quality.md says what is measured.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from services.inference.engine import Engine, GeometricEngine
from services.inference.geometry import Mesh, Skeleton, SkinWeights
from services.inference.limited_process import StepError
from tests.bench.rig_quality.bodies import VARIANTS, build
from tests.bench.rig_quality.contact_sheet import SheetRow, draw_sheet
from tests.bench.rig_quality.metrics import (
    dense_weights,
    joint_scores,
    stretch,
    unweighted,
    weight_scores,
)
from tests.bench.rig_quality.nearest_bone import nearest_bone
from tests.bench.rig_quality.programs import (
    Cost,
    Model,
    blender_weights,
    engine_skeleton,
    engine_weights,
    measured,
    neural_engine,
    read_model,
)
from tests.bench.rig_quality.sizes import SIZES, body_of
from tests.bench.rig_quality.tables import (
    Row,
    method_table,
    size_table,
    skeleton_table,
    skin_table,
)

_FORMATS = (".obj", ".fbx", ".glb", ".vrm")
_SEED = 0
_WIDTH = 220


async def measure(model: Model, engines: Sequence[Engine]) -> tuple[list[Row], SheetRow | None]:
    """The rows of one model; and its line on the contact sheet, None where it cannot be rigged."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows, skeletons = [], {}
        for engine in engines:
            row: Row = {"task": "skeleton", "method": engine.name}
            try:
                skeletons[engine.name], cost = await engine_skeleton(engine, model.mesh, folder)
                row |= _skeleton_scores(model, skeletons[engine.name]) | asdict(cost)
            except StepError as error:
                row["error"] = error.detail
            rows.append(row)
        own = skeletons.get(engines[0].name)
        bones = model.skeleton or own
        if bones is not None:
            rows += await _skin_rows(model, bones, engines, folder)
        sheet = None
        if own is not None:
            try:
                skin, _ = await engine_weights(engines[0], model.mesh, own, folder)
                sheet = SheetRow(_title(model, rows[0]), model.mesh, own, skin, model.skeleton)
            except StepError as error:
                rows[0]["error"] = error.detail
    common = {"model": model.name, "triangles": len(model.mesh.faces)}
    return [common | row for row in rows], sheet


async def measure_size(mesh: Mesh, engine: Engine) -> Row:
    """What the skeleton of a mesh and the weights for it cost. Raises StepError."""
    with tempfile.TemporaryDirectory() as scratch:
        skeleton, skeleton_cost = await engine_skeleton(engine, mesh, Path(scratch))
        _, skin_cost = await engine_weights(engine, mesh, skeleton, Path(scratch))
    return {
        "triangles": len(mesh.faces),
        "joints": len(skeleton.names),
        "skeleton": asdict(skeleton_cost),
        "skin": asdict(skin_cost),
    }


def _skeleton_scores(model: Model, skeleton: Skeleton) -> Row:
    scores: Row = {"joints": len(skeleton.names)}
    if model.skeleton is not None:
        scores["reference_joints"] = len(model.skeleton.names)
        scores |= asdict(joint_scores(skeleton, model.skeleton, model.mesh.extent))
    return scores


async def _skin_rows(
    model: Model, bones: Skeleton, engines: Sequence[Engine], folder: Path
) -> list[Row]:
    async def by_nearest_bone() -> tuple[SkinWeights, Cost]:
        async with measured() as cost:
            skin = nearest_bone(model.mesh, bones)
        return skin, Cost(seconds=cost.seconds)

    methods = {
        "nearest": by_nearest_bone,
        "blender": lambda: blender_weights(model.mesh, bones, folder),
    }
    for engine in engines:
        methods[engine.name] = lambda engine=engine: engine_weights(
            engine, model.mesh, bones, folder
        )
    whose = "ours" if model.skeleton is None else "reference"
    rows = []
    for method, skin_by in methods.items():
        row: Row = {"task": "skin", "method": method, "bones": whose}
        try:
            skin, cost = await skin_by()
            row |= _skin_scores(model, bones, skin) | asdict(cost)
        except (StepError, RuntimeError) as error:
            row["error"] = f"{method}: {error}"
        rows.append(row)
    return rows


def _skin_scores(model: Model, bones: Skeleton, skin: SkinWeights) -> Row:
    weights = dense_weights(skin, len(bones.names))
    scores: Row = {"unweighted": unweighted(weights) / len(weights)}
    if scores["unweighted"] < 1:  # what does not move at all does not stretch
        scores["stretch"] = stretch(model.mesh, bones, weights)
    if model.skin is not None and model.skeleton is not None:
        reference = dense_weights(model.skin, len(bones.names))
        scores |= asdict(weight_scores(model.mesh, bones, weights, reference))
    return scores


def _title(model: Model, row: Row) -> str:
    joints = f"{model.name}: {row['joints']} joints"
    if model.skeleton is None:
        return joints
    return f"{joints} for {row['reference_joints']}, J2J {row['j2j']:.1f} %"


async def _models_of(files: Sequence[Path]) -> list[Model]:
    models = []
    for file in files:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                models.append(await read_model(file, Path(scratch)))
            except StepError as error:
                print(f"{file.name}: {error.detail}")
    return models


def _absolute(path: str) -> Path:
    return Path(path).absolute()


def _files(folder: str) -> list[Path]:
    return sorted(Path(folder).iterdir())


def _generated() -> Iterator[Model]:
    for variant in VARIANTS:
        body = build(variant, _SEED)
        yield Model(body.name, body.mesh, body.skeleton, body.skin)


def _machine() -> str:
    info = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


async def run(arguments: argparse.Namespace, console: Console) -> None:
    console.print("python -m tests.bench.rig_quality", shlex.join(sys.argv[1:]))
    sets: dict[str, list[Model]] = {"generated": list(_generated())}
    if arguments.models is not None:
        files = [file for file in arguments.models if file.suffix.lower() in _FORMATS]
        sets = {"models": await _models_of(files), **sets}
    async with contextlib.AsyncExitStack() as stack:
        engines: list[Engine] = [GeometricEngine()]
        if arguments.checkpoints is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            neural = neural_engine(arguments.checkpoints, folder)
            engines.append(await stack.enter_async_context(neural))
        lines = stack.enter_context(arguments.output.open("w"))
        for name, models in sets.items():
            rows, sheet = [], []
            for model in models:
                print(f"{name}: {model.name}", file=sys.stderr, flush=True)
                own, line = await measure(model, engines)
                rows += own
                sheet += [line] if line is not None else []
                lines.writelines(json.dumps({"set": name, **row}) + "\n" for row in own)
                lines.flush()
            console.print(f"\n{name}: {len(models)} on {_machine()}")
            for table in (skeleton_table, method_table, skin_table):
                console.print(table(rows))
            if arguments.sheets is not None:
                _draw(name, sheet, arguments.sheets)
        costs = [await measure_size(body_of(size, _SEED), engines[0]) for size in SIZES]
        lines.writelines(json.dumps({"set": "sizes", **row}) + "\n" for row in costs)
        console.print(f"\nsizes: one body on {_machine()}")
        console.print(size_table(costs))


def _draw(name: str, sheet: Sequence[SheetRow], folder: Path) -> None:
    """One page, or one for each body plan."""
    pages: dict[str, list[SheetRow]] = {}
    for row in sheet:
        plan = f"{name}_{row.title.split('_')[0]}" if name == "generated" else name
        pages.setdefault(plan, []).append(row)
    for page, rows in pages.items():
        draw_sheet(rows, folder / f"rig_quality_{page}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=_files, help="a folder of OBJ, FBX, GLB and VRM files")
    parser.add_argument("--checkpoints", type=_absolute, help="the neural engine's")
    parser.add_argument("--output", type=Path, default=Path("rig_quality.jsonl"))
    parser.add_argument("--sheets", type=Path, help="where to draw the contact sheets")
    asyncio.run(run(parser.parse_args(), Console(width=_WIDTH, soft_wrap=False)))


if __name__ == "__main__":
    main()
