"""What runs in processes of its own, and what these cost."""

import asyncio
import contextlib
import resource
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from unirig.v1 import jobs_pb2

from services.cli.triton_server import start_triton
from services.inference.checks import check_skeleton
from services.inference.engine import Engine
from services.inference.geometry import (
    Mesh,
    Skeleton,
    SkinWeights,
    load_mesh,
    load_skeleton,
    load_weights,
    save_mesh,
    save_skeleton,
)
from services.inference.limited_process import Limits
from services.inference.progress import Progress
from services.inference.storage_client import StorageClient
from services.inference.triton_client import TritonClient
from services.inference.unirig_engine import UnirigEngine
from services.inference.workplace import Workplace

ROOT = Path(__file__).parents[3]
_MAX_TRIANGLES = 5_000_000
_DEADLINE_SECONDS = 3600.0
_LOOK_SECONDS = 0.02


@dataclass
class Cost:
    """seconds: until it was done. cpu_seconds: of the processes it started; mebibytes: the peak
    resident set of the largest of them. A server that is asked counts in seconds alone."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    mebibytes: float = 0.0


@dataclass(frozen=True)
class Model:
    """A model to be rigged, with what is known of its rig."""

    name: str
    mesh: Mesh
    skeleton: Skeleton | None
    skin: SkinWeights | None


@asynccontextmanager
async def measured() -> AsyncIterator[Cost]:
    """The cost of the processes that the block starts, complete at its end."""
    cost, start, cpu = Cost(), time.perf_counter(), _children_cpu()
    watcher = asyncio.create_task(_watch(cost, set(_children())))
    try:
        yield cost
    finally:
        watcher.cancel()
        cost.seconds, cost.cpu_seconds = time.perf_counter() - start, _children_cpu() - cpu


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def _watch(cost: Cost, others: set[str]) -> None:
    while True:
        cost.mebibytes = max([cost.mebibytes, *_peaks(others)])
        await asyncio.sleep(_LOOK_SECONDS)


def _children() -> Iterator[str]:
    for children in Path("/proc/self/task").glob("*/children"):
        yield from children.read_text().split()


def _peaks(others: set[str]) -> Iterator[float]:
    """The peak resident sets (VmHWM) of the children but others, MiB. One that is still a copy of
    this process and not yet its own program does not count."""
    own = Path("/proc/self/cmdline").read_bytes()
    for child in set(_children()) - others:
        process = Path("/proc") / child
        with contextlib.suppress(OSError, IndexError):  # it has ended
            if (process / "cmdline").read_bytes() != own:
                status = (process / "status").read_text()
                yield int(status.split("VmHWM:")[1].split()[0]) / 1024


def workplace(folder: Path) -> Workplace:
    """Where steps work on files below a folder; nothing is stored."""
    return Workplace(
        folder=folder,
        session_id="0" * 32,
        storage=cast(StorageClient, None),
        limits=Limits(cpu_seconds=3600, wall_seconds=3600, threads=1),
        progress=Progress(),
        max_triangles=_MAX_TRIANGLES,
    )


async def read_model(file: Path, folder: Path) -> Model:
    """Reads a model as a job would, with its own rig where that fits its mesh. Raises StepError."""
    asset, read = folder / f"asset{file.suffix.lower()}", folder / "read"
    shutil.copyfile(file, asset)
    command = [sys.executable, "-m", "services.inference.formats.read", asset, read]
    await workplace(folder).step("read", command, _unreported)
    mesh = load_mesh(read / "mesh.npz")
    if not (read / "skeleton.npz").exists():
        return Model(file.name, mesh, None, None)
    skeleton = load_skeleton(read / "skeleton.npz")
    try:
        check_skeleton(mesh, skeleton)
    except ValueError:
        return Model(file.name, mesh, None, None)
    skin = read / "weights.npz"
    return Model(file.name, mesh, skeleton, load_weights(skin) if skin.exists() else None)


async def engine_skeleton(engine: Engine, mesh: Mesh, folder: Path) -> tuple[Skeleton, Cost]:
    """Raises StepError."""
    save_mesh(folder / "mesh.npz", mesh)
    out = folder / f"{engine.name}-skeleton.npz"
    async with measured() as cost:
        await engine.predict_skeleton(
            folder / "mesh.npz", out, jobs_pb2.RigOptions(), workplace(folder), _unreported
        )
    return load_skeleton(out), cost


async def engine_weights(
    engine: Engine, mesh: Mesh, skeleton: Skeleton, folder: Path
) -> tuple[SkinWeights, Cost]:
    """Raises StepError."""
    save_mesh(folder / "mesh.npz", mesh)
    save_skeleton(folder / "given.npz", skeleton)
    out = folder / f"{engine.name}-weights.npz"
    async with measured() as cost:
        await engine.predict_weights(
            folder / "mesh.npz",
            folder / "given.npz",
            out,
            jobs_pb2.RigOptions(),
            workplace(folder),
            _unreported,
        )
    return load_weights(out), cost


async def blender_weights(mesh: Mesh, skeleton: Skeleton, folder: Path) -> tuple[SkinWeights, Cost]:
    """Raises RuntimeError with the last line that Blender printed."""
    save_mesh(folder / "mesh.npz", mesh)
    save_skeleton(folder / "given.npz", skeleton)
    out = folder / "blender-weights.npz"
    async with measured() as cost:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.rig_quality.blender_weights"),
            *(folder / "mesh.npz", folder / "given.npz", out),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(printed.decode(errors="replace").strip().rpartition("\n")[2])
    return load_weights(out), cost


@asynccontextmanager
async def neural_engine(checkpoints: Path, folder: Path) -> AsyncIterator[Engine]:
    """The neural engine on a Triton server of its own, whose log goes into folder.

    checkpoints: an absolute path.
    """
    settings = {"UNIRIG_MODEL_FOLDER": str(checkpoints)}
    server = await asyncio.to_thread(start_triton, folder, settings)
    try:
        engine = UnirigEngine(
            TritonClient(
                server.address, patience_seconds=600, idle_seconds=600, shared_memory=False
            ),
            _DEADLINE_SECONDS,
        )
        yield engine
        await engine.close()
    finally:
        await asyncio.to_thread(server.stop)


def _unreported(_share: float, _message: str) -> None:
    """Nobody watches."""
