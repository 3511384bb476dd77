"""The models as Triton serves them, without Triton: options, checks, pace, waiting, failures."""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from services.cli import triton_server
from services.cli.servers import ServerError
from services.inference.shared_tensors import SharedTensors, segment_prefix
from services.inference.unirig_network.checkpoint_errors import (
    CheckpointCorruptError,
    CheckpointMissingError,
)
from services.inference.unirig_network.checkpoint_format import checkpoint_path
from services.inference.unirig_network.decoding_loop import DecodingLoop
from services.inference.unirig_network.generation import DecodingSettings
from services.inference.unirig_network.grammar import Rule
from services.inference.unirig_network.model_loading import load_skeleton, load_skin
from services.inference.unirig_network.serving_errors import (
    InvalidRequestError,
    error_text,
    load_error_text,
)
from services.inference.unirig_network.serving_metrics import FAMILIES, Metrics
from services.inference.unirig_network.serving_progress import PacedProgress
from services.inference.unirig_network.serving_settings import (
    ON_CPU,
    ON_GPU,
    ServingSettings,
    serving_settings,
)
from services.inference.unirig_network.skeleton_model import SkeletonModel
from services.inference.unirig_network.skeleton_options import read_options
from services.inference.unirig_network.skeleton_server import (
    SkeletonJob,
    SkeletonServer,
    share_of,
)
from services.inference.unirig_network.skin_server import SkinJob, SkinServer
from services.inference.unirig_network.tokenizer import decode_skeleton
from tests.tiny_unirig import MAX_TOKENS, tiny_settings, write_tiny_checkpoints

CPU = torch.device("cpu")
SETTINGS = ServingSettings(slots=2, beams=3, max_tokens=200)
POINTS = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32)
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@dataclass
class Told:
    """Answers as a caller sees them."""

    progress_seen: list[tuple[float, str]] = field(default_factory=list)
    result: npt.NDArray[Any] | None = None
    error: Exception | None = None
    dropped: bool = False
    cancelled: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    def progress(self, share: float, message: str) -> None:
        self.progress_seen.append((share, message))

    def finish(self, result: npt.NDArray[Any]) -> None:
        self.result = result
        self.ended.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.ended.set()

    def drop(self) -> None:
        self.dropped = True
        self.ended.set()

    def is_cancelled(self) -> bool:
        return self.cancelled

    def wait(self) -> "Told":
        assert self.ended.wait(30)
        return self

    def joints(self) -> int:
        """Of the skeleton that came."""
        assert self.result is not None, self.error
        return len(decode_skeleton(self.result.tolist()).joints)


@dataclass
class Counted:
    """A metric as Triton keeps it."""

    value: float = 0.0

    def increment(self, amount: float) -> None:
        self.value += amount

    def set(self, value: float) -> None:
        self.value = value


@dataclass
class Port:
    """Triton's metrics port."""

    metrics: dict[tuple[str, str], Counted] = field(default_factory=dict)

    def make(self, name: str, labels: Mapping[str, str]) -> Counted:
        assert name in FAMILIES
        return self.metrics.setdefault((name, labels.get("stage", "")), Counted())

    def value(self, name: str, stage: str = "") -> float:
        return self.metrics[name, stage].value


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def model(checkpoints: Path) -> SkeletonModel:
    return load_skeleton(checkpoint_path(checkpoints, "skeleton"), CPU)


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def server(model: SkeletonModel, port: Port) -> Iterator[SkeletonServer]:
    server = SkeletonServer(model, SETTINGS, Metrics({}, port.make))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def skin_server(checkpoints: Path) -> SkinServer:
    model = load_skin(checkpoint_path(checkpoints, "skin"), CPU)
    return SkinServer(model, Metrics({}, Port().make))


def skeleton_job(told: Told, **options: object) -> SkeletonJob:
    return SkeletonJob(POINTS, POINTS, read_options(json.dumps(options), SETTINGS), told)


def skin_job(**changed: npt.NDArray[Any]) -> SkinJob:
    arrays: dict[str, npt.NDArray[Any]] = {
        "points": POINTS,
        "normals": POINTS,
        "joints": POINTS[:3],
        "parents": np.array([-1, 0, 1], np.int32),
        "prior": np.full((500, 3), 1 / 3, np.float32),
    }
    return SkinJob(**{**arrays, **changed})


def submitted(server: SkeletonServer, **options: object) -> Told:
    told = Told()
    server.submit(skeleton_job(told, **options))
    return told


def until_it_runs(told: Told) -> Told:
    deadline = time.monotonic() + 30
    while len(told.progress_seen) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return told


# Options


def test_without_options_a_skeleton_is_decoded_as_in_the_reference_within_the_servers_limits() -> (
    None
):
    options = read_options("{}", SETTINGS)
    limits = DecodingSettings(rule=Rule.STRICT, beams=3, max_tokens=200)
    assert options.decoding == limits
    assert (options.class_name, options.seed) == ("articulationxl", 0)


def test_options_are_taken_as_they_are_given() -> None:
    asked = {
        "seed": 2**63 - 1,
        "skeleton_class": "vroid",
        "beams": 2,
        "temperature": 1,
        "top_k": 7,
        "top_p": 0.5,
        "repetition_penalty": 1.5,
        "max_tokens": 60,
        "max_joints": 9,
    }
    options = read_options(json.dumps(asked), SETTINGS)
    assert (options.class_name, options.seed) == ("vroid", 2**63 - 1)
    assert options.decoding == DecodingSettings(
        beams=2,
        temperature=1.0,
        top_k=7,
        top_p=0.5,
        repetition_penalty=1.5,
        max_tokens=60,
        max_joints=9,
        rule=Rule.STRICT,
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"seed": -1}',
        '{"seed": 1.5}',
        '{"seed": true}',
        '{"skeleton_class": null}',
        '{"skeleton_class": "fish"}',
        '{"beams": 0}',
        '{"beams": 4}',
        '{"temperature": 0}',
        '{"temperature": NaN}',
        '{"temperature": "1"}',
        '{"top_k": 51}',
        '{"top_p": 0}',
        '{"top_p": false}',
        '{"repetition_penalty": 0.5}',
        '{"max_tokens": 11}',
        '{"max_tokens": 201}',
        '{"max_joints": 1}',
        '{"max_joints": null}',
        '{"colour": "red"}',
    ],
)
def test_options_out_of_bounds_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        read_options(text, SETTINGS)


# Settings


def test_the_environment_overrides_the_devices_defaults() -> None:
    assert serving_settings({}, CPU) == ON_CPU
    assert serving_settings({}, torch.device("cuda", 1)) == ON_GPU
    given = {"UNIRIG_SLOTS": "7", "UNIRIG_MODEL_FOLDER": "/models", "UNIRIG_THREADS": "3"}
    expected = replace(ON_CPU, slots=7, model_folder=Path("/models"), threads=3)
    assert serving_settings(given, CPU) == expected


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_setting_that_is_no_count_is_named(value: str) -> None:
    with pytest.raises(ValueError, match="UNIRIG_BEAMS"):
        serving_settings({"UNIRIG_BEAMS": value}, CPU)


# Errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequestError("no"), "INVALID_REQUEST"),
        (OUT_OF_MEMORY, "GPU_OUT_OF_MEMORY"),
        (MemoryError(), "GPU_OUT_OF_MEMORY"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "GPU_OUT_OF_MEMORY"),
        (RuntimeError("shapes differ"), "PROCESSING_FAILED"),
        (ValueError("a secret path"), "PROCESSING_FAILED"),
    ],
)
def test_every_error_text_starts_with_its_code(error: Exception, code: str) -> None:
    assert error_text(error).startswith(f"{code}: ")
    assert "secret" not in error_text(error)


def test_memory_that_the_cpu_does_not_have_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as failure:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert error_text(failure.value).startswith("GPU_OUT_OF_MEMORY: ")


def test_a_model_that_cannot_be_loaded_says_why() -> None:
    missing = load_error_text(CheckpointMissingError("run this"))
    assert missing == "MODEL_CHECKPOINT_MISSING: run this"
    assert load_error_text(OUT_OF_MEMORY).startswith("GPU_OUT_OF_MEMORY: ")
    assert load_error_text(ValueError("UNIRIG_SLOTS")) == "ValueError: UNIRIG_SLOTS"


# Progress and metrics


def test_progress_is_told_every_hundredth_and_every_second_and_never_goes_back() -> None:
    sent: list[float] = []
    now = 100.0
    progress = PacedProgress(lambda share, message: sent.append(share), clock=lambda: now)
    for share in (0.0, 0.001, 0.009, 0.011, 0.005, 0.012):
        progress.show(share, "")
    now += 1.5
    progress.show(0.005, "")
    assert sent == [0.0, 0.011, 0.012]


def test_the_share_of_the_tokens_grows_and_never_reaches_the_end() -> None:
    shares = [share_of(tokens) for tokens in range(0, 2048, 8)]
    assert all(before < after for before, after in pairwise(shares))
    assert shares[0] == pytest.approx(0.1)
    assert shares[-1] < 1


def test_metrics_are_handed_over_together(port: Port) -> None:
    metrics = Metrics({"model": "m"}, port.make)
    metrics.add("unirig_decode_steps_total", 2)
    metrics.add("unirig_decode_steps_total", 3)
    metrics.set("unirig_active_requests", 2)
    metrics.set("unirig_active_requests", 1)
    assert not port.metrics
    metrics.publish()
    metrics.publish()
    assert port.value("unirig_decode_steps_total") == 5
    assert port.value("unirig_active_requests") == 1


# Checkpoints of other sizes


def test_a_checkpoint_says_the_size_of_its_model(model: SkeletonModel) -> None:
    assert model.config.transformer.layers == 4
    assert model.config.encoder.tokens == 16


def test_a_checkpoint_of_the_other_model_is_refused(checkpoints: Path) -> None:
    with pytest.raises(CheckpointCorruptError, match="skin model's, not the skeleton model's"):
        load_skeleton(checkpoint_path(checkpoints, "skin"), CPU)


def test_sizes_that_do_not_fit_the_weights_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    content = checkpoint_path(checkpoints, "skin").read_bytes()
    for change in (b'\\"width\\": 64', b'\\"wodth\\": 32', b'\\"width\\":   '):
        damaged = tmp_path / "skin.safetensors"
        damaged.write_bytes(content.replace(b'\\"width\\": 32', change))
        with pytest.raises(CheckpointCorruptError, match="cannot be used"):
            load_skin(damaged, CPU)


def test_a_tiny_networks_skeleton_has_a_usual_size(checkpoints: Path, model: SkeletonModel) -> None:
    settings = serving_settings(tiny_settings(checkpoints), CPU)
    assert settings.max_tokens == MAX_TOKENS
    server = SkeletonServer(model, settings, Metrics({}, Port().make))
    for name in ("articulationxl", "vroid", "mixamo"):
        told = Told()
        options = read_options(json.dumps({"skeleton_class": name, "seed": 4}), settings)
        server.submit(SkeletonJob(POINTS, POINTS, options, told))
        assert 5 <= told.wait().joints() <= 40
    server.stop()


# The skeleton server


def test_a_job_tells_its_progress_and_ends_with_its_tokens(
    server: SkeletonServer, port: Port
) -> None:
    told = submitted(server, max_joints=10).wait()
    assert told.joints() == 10
    shares = [share for share, _ in told.progress_seen]
    assert len(shares) >= 8
    assert all(before <= after for before, after in pairwise(shares))
    assert told.result is not None
    assert port.value("unirig_decode_tokens_total") == len(told.result) - 2
    assert {stage for _, stage in port.metrics} == {"", "wait", "encode", "prefill", "decode"}


def test_jobs_share_steps_and_those_without_a_slot_wait(server: SkeletonServer, port: Port) -> None:
    jobs = [submitted(server, seed=seed, max_joints=12) for seed in range(5)]
    assert [job.wait().joints() for job in jobs] == [12] * 5
    assert port.value("unirig_decode_shared_steps_total") > 0
    assert port.value("unirig_decode_steps_total") < port.value("unirig_decode_tokens_total")


def test_a_job_that_waits_hears_so_each_second_and_its_wait_is_counted(
    server: SkeletonServer, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = DecodingLoop.step

    def slow_step(loop: DecodingLoop) -> object:
        time.sleep(0.02)
        return step(loop)

    monkeypatch.setattr(DecodingLoop, "step", slow_step)
    running = [submitted(server) for _ in range(2)]
    waiting = submitted(server, max_joints=2)
    assert waiting.wait().joints() == 2
    assert waiting.progress_seen[:3] == 3 * [(0.0, "Waiting for a free slot")]
    assert port.value("unirig_stage_seconds_total", "wait") > 2
    assert all(job.wait().result is not None for job in running)


def test_a_cancelled_job_is_dropped_whether_it_runs_or_waits(server: SkeletonServer) -> None:
    running = [until_it_runs(submitted(server, seed=seed)) for seed in range(2)]
    waiting = submitted(server)
    running[0].cancelled = waiting.cancelled = True
    assert running[0].wait().dropped
    assert waiting.wait().dropped
    assert submitted(server, max_joints=3).wait().joints() == 3
    assert running[1].wait().joints() > 3


def test_a_shape_that_does_not_fit_into_memory_fails_alone(
    server: SkeletonServer, port: Port, model: SkeletonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = until_it_runs(submitted(server))
    with monkeypatch.context() as patch:
        patch.setattr(model, "condition", _raising(OUT_OF_MEMORY))
        assert submitted(server).wait().error is OUT_OF_MEMORY
    assert submitted(server, max_joints=3).wait().joints() == 3
    assert other.wait().joints() > 3
    assert port.value("unirig_out_of_memory_total") == 1


def test_a_step_without_memory_costs_the_job_that_came_last(
    server: SkeletonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = until_it_runs(submitted(server, seed=1))
    last = until_it_runs(submitted(server, seed=2))
    step = DecodingLoop.step
    failures = [OUT_OF_MEMORY]

    def step_without_memory(loop: DecodingLoop) -> object:
        if failures:
            raise failures.pop()
        return step(loop)

    monkeypatch.setattr(DecodingLoop, "step", step_without_memory)
    assert last.wait().error is OUT_OF_MEMORY
    assert first.wait().joints() > 2


def test_a_bug_fails_those_that_run_and_the_server_goes_on(
    server: SkeletonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = RuntimeError("a bug")
    running = until_it_runs(submitted(server))
    with monkeypatch.context() as patch:
        patch.setattr(DecodingLoop, "step", _raising(bug))
        assert running.wait().error is bug
    assert submitted(server, max_joints=3).wait().joints() == 3


def test_a_server_that_stops_fails_what_it_has(model: SkeletonModel) -> None:
    server = SkeletonServer(model, SETTINGS, Metrics({}, Port().make))
    jobs = [submitted(server, seed=seed) for seed in range(4)]
    server.stop()
    assert all(job.wait().error or job.result is not None for job in jobs)
    assert any(job.error for job in jobs)


@pytest.mark.parametrize(
    ("points", "normals"),
    [
        (POINTS, POINTS[:-1]),
        (POINTS[:0], POINTS[:0]),
        (POINTS[:, :2], POINTS[:, :2]),
        (POINTS * 1.1, POINTS),
        (np.where(POINTS > 0.99, np.nan, POINTS), POINTS),
        (POINTS, np.where(POINTS > 0.99, np.inf, POINTS)),
    ],
)
def test_a_surface_that_makes_no_sense_is_refused(
    points: npt.NDArray[Any], normals: npt.NDArray[Any]
) -> None:
    with pytest.raises(InvalidRequestError):
        SkeletonJob(points, normals, read_options("{}", SETTINGS), Told())
    with pytest.raises(InvalidRequestError):
        skin_job(points=points, normals=normals)


# The skin server


def test_a_skin_tells_its_progress_and_ends_with_weights(skin_server: SkinServer) -> None:
    told = Told()
    skin_server.serve(skin_job(), told)
    assert told.result is not None
    assert told.result.shape == (500, 3)
    assert np.allclose(told.result.sum(axis=1), 1, atol=1e-5)
    assert len(told.progress_seen) >= 5


def test_a_cancelled_skin_is_dropped_at_its_next_stage(skin_server: SkinServer) -> None:
    told = Told(cancelled=True)
    skin_server.serve(skin_job(), told)
    assert told.dropped
    assert told.result is None
    assert not told.progress_seen


def test_a_skin_that_fails_is_answered_and_the_next_is_fine(
    skin_server: SkinServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, fine = Told(), Told()
    with monkeypatch.context() as patch:
        patch.setattr(skin_server, "_weights", _raising(OUT_OF_MEMORY))
        skin_server.serve(skin_job(), failed)
    skin_server.serve(skin_job(), fine)
    assert failed.error is OUT_OF_MEMORY
    assert fine.result is not None


@pytest.mark.parametrize(
    "changed",
    [
        {"joints": POINTS[:2]},
        {"joints": np.full((3, 3), np.nan, np.float32)},
        {"parents": np.array([-1, 0], np.int32)},
        {"parents": np.array([-1, 2, 0], np.int32)},
        {"parents": np.array([-2, 0, 0], np.int32)},
        {"prior": np.full((499, 3), 1 / 3, np.float32)},
        {"prior": np.full((500, 3), -1, np.float32)},
        {"prior": np.full((500, 3), np.inf, np.float32)},
    ],
)
def test_a_skeleton_or_prior_that_makes_no_sense_is_refused(
    changed: dict[str, npt.NDArray[Any]],
) -> None:
    with pytest.raises(InvalidRequestError):
        skin_job(**changed)


# Shared memory, and starting Triton


def test_shared_tensors_hold_arrays_side_by_side_and_leave_nothing() -> None:
    arrays = {"a": POINTS, "b": np.arange(7, dtype=np.int32)}
    shared = SharedTensors({name: array.nbytes for name, array in arrays.items()})
    for name, array in arrays.items():
        shared.write(name, array)
    for name, array in arrays.items():
        assert (shared.read(name, array.shape, array.dtype.type) == array).all()
    assert (Path("/dev/shm") / shared.name).stat().st_size >= shared.size
    shared.close()
    assert not (Path("/dev/shm") / shared.name).exists()


def test_more_shared_memory_than_there_is_is_refused() -> None:
    host = os.statvfs("/dev/shm")
    with pytest.raises(OSError, match="No space left"):
        SharedTensors({"a": host.f_blocks * host.f_frsize + (1 << 30)})
    assert not list(Path("/dev/shm").glob(f"{segment_prefix(os.getpid())}*"))


def test_without_the_package_triton_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServerError, match=r"pip install .*nvidia-pytriton"):
        triton_server.start_triton(tmp_path, {})


def test_a_python_without_a_shared_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: "libpython3.11.a")
    with pytest.raises(ServerError, match=r"libpython3\.11"):
        triton_server.start_triton(tmp_path, {})


def _raising(error: Exception) -> Any:
    def fail(*arguments: object, **named: object) -> None:
        raise error

    return fail
