"""What each type of job does, step by step.

Every step that touches a user's bytes is a confined child process (see limited_process). The worker
itself only moves files: it never opens one but to receive or send it.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unirig.v1 import jobs_pb2, messages_pb2, storage_pb2

from services.common.tracing import span
from services.inference.engine import Engine
from services.inference.limited_process import StepError
from services.inference.progress import StepProgress
from services.inference.workplace import Workplace, format_of

FORMATS = ("obj", "fbx", "glb", "vrm")
GAME_FORMATS = ("fbx", "glb")

# What a stage added to a name, and the number that storage added to make it unique.
_STAGE_SUFFIX = re.compile(r"_(skeleton|skinned|rigged)(-\d+)?\Z")
_MAX_STEM_BYTES = 200
_READ = (sys.executable, "-m", "services.inference.formats.read")
_WRITE = (sys.executable, "-m", "services.inference.formats.write")
_ARRAYS = (sys.executable, "-m", "services.inference.rig_program")


@dataclass(frozen=True)
class Results:
    """What a job made, on the worker's disk.

    asset_path: the original upload. name: without extension.
    arrays: all arrays in one npz. files: by format, the main result first.
    """

    stage: str
    asset_path: str
    name: str
    arrays: Path
    files: dict[str, Path]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A stored file, and where to find its exact arrays and the original asset it was made of:
    in the file itself, where it is an upload. stage: what made it, empty for an upload."""

    arrays_path: str
    asset_path: str
    stage: str


@dataclass(frozen=True)
class _Arrays:
    """The files that hold a model's arrays, perhaps one and the same. None: there are none."""

    mesh: Path
    skeleton: Path | None
    weights: Path | None
    notes: tuple[str, ...] = ()


async def make_results(spec: jobs_pb2.JobSpec, engine: Engine, place: Workplace) -> Results:
    """Does a job's work, all but saving it.

    Raises StepError for bad input and failed steps, ApiError where storage fails.
    """
    match spec.type:
        case jobs_pb2.JOB_TYPE_SKELETON:
            return await _make_skeleton(spec, engine, place)
        case jobs_pb2.JOB_TYPE_SKINNING:
            return await _make_skinning(spec, engine, place)
        case jobs_pb2.JOB_TYPE_MERGE:
            return await _make_merge(spec, place)
    raise ValueError(f"no such type of job: {spec.type}")


async def save_results(
    job_id: str, results: Results, place: Workplace
) -> messages_pb2.JobSucceeded:
    """Stores what was made: the arrays first, as every other file's lineage names them."""
    report = place.progress.span(93, 99, "Saving results")
    lineage = storage_pb2.Lineage(job_id=job_id, stage=results.stage, asset_path=results.asset_path)
    stored: list[storage_pb2.FileInfo] = []
    files = [("npz", results.arrays), *results.files.items()]
    with span("save"):
        for extension, path in files:
            report(len(stored) / len(files), "")
            filename = f"{results.name}.{extension}"
            stored.append(await place.storage.upload(place.session_id, path, filename, lineage))
            lineage.arrays_path = stored[0].path
    arrays, main, *others = stored
    return messages_pb2.JobSucceeded(
        output_file=main.path,
        artifacts=[
            jobs_pb2.Artifact(format=format_of(info.path), path=info.path, size=info.size)
            for info in (main, *others, arrays)
        ],
        notes=results.notes,
    )


async def _make_skeleton(spec: jobs_pb2.JobSpec, engine: Engine, place: Workplace) -> Results:
    asset_path = (await _source(spec.input_file, place)).asset_path
    files = await place.fetch([asset_path], place.progress.span(0, 5, "Fetching the model"))
    asset = files[asset_path]
    model = await _read(asset, place.progress.span(5, 25, "Reading model"), place)
    skeleton = place.folder / "skeleton.npz"
    predicting = place.progress.span(25, 65, "Predicting skeleton")
    remarks = await engine.predict_skeleton(model.mesh, skeleton, spec.options, place, predicting)
    rig = _Arrays(model.mesh, _made(skeleton, place), None)
    notes = [*model.notes, *remarks]
    if model.skeleton:
        notes.append(
            "The rig that the model had was replaced."
            " To keep its skeleton, run a skinning job on the upload itself."
        )
    arrays = await _pack(rig, 65, place)
    files = await _write(asset, rig, ["obj", *GAME_FORMATS], (68, 78), place)
    if format_of(asset_path) == "vrm":
        try:
            files |= await _write(asset, rig, ["vrm"], (78, 80), place)
        except StepError as error:
            if error.code != "INVALID_MESH":
                raise
            notes.append(f"No VRM was made. {error.detail}")
    await _verify(arrays, files, 80, place)
    return Results(
        stage="skeleton",
        asset_path=asset_path,
        name=result_name(asset_path, "skeleton"),
        arrays=arrays,
        files=_main_first(format_of(spec.input_file), files),
        notes=tuple(notes),
    )


async def _make_skinning(spec: jobs_pb2.JobSpec, engine: Engine, place: Workplace) -> Results:
    source = await _source(spec.input_file, place)
    files = await place.fetch(
        [source.asset_path, source.arrays_path],
        place.progress.span(0, 5, "Fetching the model"),
    )
    model = await _arrays_of(source, files, place.progress.span(5, 20, "Reading model"), place)
    if model.skeleton is None:
        raise _missing("The model has no skeleton.", model, "skeleton")
    weights = place.folder / "weights.npz"
    predicting = place.progress.span(20, 65, "Predicting skin weights")
    remarks = await engine.predict_weights(
        model.mesh, model.skeleton, weights, spec.options, place, predicting
    )
    rig = _Arrays(model.mesh, model.skeleton, _made(weights, place))
    arrays = await _pack(rig, 65, place)
    files = await _write(files[source.asset_path], rig, GAME_FORMATS, (68, 80), place)
    await _verify(arrays, files, 80, place)
    replaced = ["The skin weights that the model had were replaced."] if model.weights else []
    return Results(
        stage="skinning",
        asset_path=source.asset_path,
        name=result_name(source.asset_path, "skinned"),
        arrays=arrays,
        files=_main_first(format_of(spec.input_file), files),
        notes=(*model.notes, *remarks, *replaced),
    )


async def _make_merge(spec: jobs_pb2.JobSpec, place: Workplace) -> Results:
    skeleton = await _source(spec.input_file, place)
    skinning = await _source(spec.skinning_file, place)
    asset = await _merge_target(spec, skeleton, skinning, place)
    parts = {"skeleton": skeleton, "skinning": skinning, "original model": asset}
    files = await place.fetch(
        [asset.asset_path, *(part.arrays_path for part in parts.values())],
        place.progress.span(0, 5, "Fetching the models"),
    )
    models: dict[_Source, _Arrays] = {}
    for number, (what, part) in enumerate(parts.items()):
        report = place.progress.span(5 + 10 * number, 15 + 10 * number, f"Reading the {what}")
        if part not in models:
            models[part] = await _arrays_of(part, files, report, place)
    bones, skin, model = (models[part] for part in parts.values())
    if bones.skeleton is None:
        raise _missing("The skeleton file has no skeleton.", bones, "skeleton")
    if skin.weights is None or skin.skeleton is None:
        raise _missing("The skinning file has no skin weights.", skin, "skinning")
    merged = place.folder / "merged"
    await place.step(
        "merge",
        [
            *(*_ARRAYS, "merge", bones.skeleton, model.mesh, merged),
            *(skin.mesh, skin.skeleton, skin.weights),
        ],
        place.progress.span(35, 45, "Merging skeleton and weights"),
        "PROCESSING_FAILED",
    )
    rig = _Arrays(model.mesh, bones.skeleton, merged / "weights.npz")
    arrays = await _pack(rig, 45, place)
    formats = dict.fromkeys((spec.output_format, *GAME_FORMATS))
    files = await _write(files[asset.asset_path], rig, list(formats), (48, 75), place)
    await _verify(arrays, files, 75, place)
    notes = (*bones.notes, *skin.notes, *model.notes, *place.notes(merged / "report.json"))
    return Results(
        stage="merge",
        asset_path=asset.asset_path,
        name=result_name(asset.asset_path, "rigged"),
        arrays=arrays,
        files=files,
        notes=tuple(dict.fromkeys(notes)),
    )


async def _merge_target(
    spec: jobs_pb2.JobSpec, skeleton: _Source, skinning: _Source, place: Workplace
) -> _Source:
    """The asset that gets the rig: the one asked for, else the one that the results were made of,
    else the skinned file itself."""
    if spec.target_file:
        asset_path = (await _source(spec.target_file, place)).asset_path
    elif skinning.stage or not skeleton.stage:
        asset_path = skinning.asset_path
    else:
        asset_path = skeleton.asset_path
    return _Source(asset_path, asset_path, "")


async def _source(path: str, place: Workplace) -> _Source:
    info = await place.storage.describe(place.session_id, path)
    if not info.lineage.arrays_path:
        if format_of(path) not in FORMATS:
            raise StepError(
                "INVALID_FILE_FORMAT", "Invalid file format. Supported: .obj, .fbx, .glb, .vrm"
            )
        return _Source(path, path, "")
    return _Source(info.lineage.arrays_path, info.lineage.asset_path, info.lineage.stage)


async def _arrays_of(
    source: _Source, files: Mapping[str, Path], report: StepProgress, place: Workplace
) -> _Arrays:
    """The arrays of the job that made the file; else what the file itself holds."""
    file = files[source.arrays_path]
    if not source.stage:
        return await _read(file, report, place)
    return _Arrays(file, file, None if source.stage == "skeleton" else file)


async def _read(asset: Path, report: StepProgress, place: Workplace) -> _Arrays:
    folder = asset.with_name(f"{asset.name}.read")
    await place.step("read", [*_READ, *place.triangle_limit, asset, folder], report)
    mesh, skeleton, weights = (folder / f"{name}.npz" for name in ("mesh", "skeleton", "weights"))
    return _Arrays(
        mesh,
        skeleton if place.has(skeleton) else None,
        weights if place.has(weights) else None,
        tuple(place.notes(folder / "report.json")),
    )


async def _pack(rig: _Arrays, start: float, place: Workplace) -> Path:
    packed = place.folder / "packed.npz"
    parts = [part for part in (rig.mesh, rig.skeleton, rig.weights) if part]
    report = place.progress.span(start, start + 3, "Packing the rig")
    await place.step("pack", [*_ARRAYS, "pack", packed, *parts], report, "PROCESSING_FAILED")
    return _made(packed, place)


async def _write(
    asset: Path,
    rig: _Arrays,
    formats: Sequence[str],
    progress: tuple[float, float],
    place: Workplace,
) -> dict[str, Path]:
    """The asset with its rig in each format, in that order."""
    parts = {"--mesh": rig.mesh, "--skeleton": rig.skeleton, "--weights": rig.weights}
    arrays = [word for option, part in parts.items() if part for word in (option, part)]
    start, end = progress
    share = (end - start) / len(formats)
    files = {}
    for number, extension in enumerate(formats):
        out = place.folder / f"result.{extension}"
        begin = start + number * share
        await place.step(
            f"write {extension}",
            [*_WRITE, *arrays, "--asset", asset, *place.triangle_limit, out],
            place.progress.span(begin, begin + share, f"Writing {extension.upper()}"),
            "PROCESSING_FAILED",
        )
        files[extension] = _made(out, place)
    return files


async def _verify(packed: Path, files: Mapping[str, Path], start: float, place: Workplace) -> None:
    """Reads every result back and compares it with the rig, before anybody sees it; progress from
    start to 93."""
    share = (92 - start) / len(files)
    pairs: list[Path] = []
    for number, (extension, file) in enumerate(files.items()):
        begin = start + number * share
        report = place.progress.span(begin, begin + share, f"Checking {extension.upper()}")
        try:
            written = await _read(file, report, place)
        except StepError as error:
            text = f"The {extension.upper()} result could not be read back."
            raise StepError("PROCESSING_FAILED", text, error.log) from error
        pairs += [file, written.mesh.parent]
    await place.step(
        "verify",
        [*_ARRAYS, "verify", packed, *pairs],
        place.progress.span(92, 93, "Checking the results"),
        "PROCESSING_FAILED",
    )


def _made(path: Path, place: Workplace) -> Path:
    if not place.has(path):
        raise StepError("PROCESSING_FAILED", f"No {path.suffix.lstrip('.').upper()} came out.")
    return path


def _main_first(input_format: str, files: Mapping[str, Path]) -> dict[str, Path]:
    """The files, first the one in the input's own format or, where that cannot carry the result,
    in the format nearest to it."""
    nearest = (input_format, *(("glb",) if input_format == "vrm" else ()), "fbx")
    main = next(extension for extension in nearest if extension in files)
    return {main: files[main], **files}


def result_name(asset_path: str, suffix: str) -> str:
    """ "model_skeleton" for "model.obj" and for "model_skinned-2.fbx"."""
    stem = _STAGE_SUFFIX.sub("", PurePosixPath(asset_path).stem)
    return f"{stem.encode()[:_MAX_STEM_BYTES].decode('utf-8', 'ignore') or 'model'}_{suffix}"


def _missing(what: str, model: _Arrays, job: str) -> StepError:
    todo = f"Run a {job} job first and use its result."
    return StepError("INVALID_MESH", " ".join((what, *model.notes, todo)))
