"""The networks on a real Triton server, with tiny weights, and the worker's client of it."""

import asyncio
import os
import re
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from services.cli.triton_server import TritonServer, start_triton
from services.inference.shared_tensors import segment_prefix
from services.inference.triton_client import (
    SKELETON_MODEL,
    SKIN_MODEL,
    ModelError,
    ModelServerError,
    TritonClient,
)
from services.inference.unirig_network.tokenizer import BOS, CLASS_TOKENS, decode_skeleton
from tests.job_services import descendants, is_alive, until
from tests.tiny_unirig import LONG_TOKENS, tiny_settings, write_tiny_checkpoints

SHORT = {"seed": 3, "max_joints": 12}
JOINTS = 8
GENERATOR = np.random.default_rng(0)

Array = npt.NDArray[np.float32]


@dataclass
class Seen:
    """What a prediction told on its way."""

    shares: list[float] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def __call__(self, share: float, message: str) -> None:
        self.shares.append(share)
        self.messages.append(message)

    @property
    def has_joints(self) -> bool:
        return any(message.startswith("Placing joints:") for message in self.messages)


def ball(points: int) -> Array:
    """Points on a ball; they are their own normals."""
    places = GENERATOR.normal(size=(points, 3))
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    return np.asarray(places, np.float32)


SURFACE = ball(2048)


async def tokens_of(
    client: TritonClient,
    options: Mapping[str, object],
    surface: Array = SURFACE,
    seen: Seen | None = None,
) -> list[int]:
    tokens = await client.predict_tokens(surface, surface, options, seen or Seen())
    assert tokens.dtype == np.int32
    return [int(token) for token in tokens]


async def weights_of(
    client: TritonClient, points: int = 2048, seen: Seen | None = None, joints: int = JOINTS
) -> Array:
    surface = ball(points)
    prior = GENERATOR.uniform(0.1, 1, size=(points, joints)).astype(np.float32)
    prior /= prior.sum(axis=1, keepdims=True)
    parents = np.arange(-1, joints - 1, dtype=np.int32)
    return await client.predict_weights(
        surface, surface, ball(joints), parents, prior, seen or Seen()
    )


def metric(server: TritonServer, name: str, **labels: str) -> float:
    """The sum of a metric's series that have the labels."""
    found = 0.0
    for line in server.metrics().splitlines():
        if re.match(rf"{name}[{{ ]", line) and all(
            f'{label}="{value}"' in line for label, value in labels.items()
        ):
            found += float(line.rpartition(" ")[2])
    return found


def model_process(server: TritonServer, model: str) -> int:
    """The process that runs a model."""
    for pid in descendants(server.process.pid):
        if f"{model}_0_0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError(f"{model} has no process")


@contextmanager
def memory_limit(pid: int, room: int) -> Iterator[None]:
    """Lets a process take so many bytes more than it has, and no more."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + room
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    yield
    resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def tensor_segments() -> list[Path]:
    """Those of this process."""
    return list(Path("/dev/shm").glob(f"{segment_prefix(os.getpid())}*"))


def client_of(address: str, **settings: Any) -> TritonClient:
    return TritonClient(
        address,
        **{"patience_seconds": 60.0, "idle_seconds": 30.0, "shared_memory": False, **settings},
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    settings = tiny_settings(checkpoints, LONG_TOKENS)
    server = start_triton(tmp_path_factory.mktemp("triton"), settings)
    yield server
    processes = descendants(server.process.pid)
    server.stop()
    assert not any(is_alive(pid) for pid in processes)
    assert not list(Path("/dev/shm").glob(f"{server.shm_prefix}*"))


@pytest.fixture(scope="module", params=[False, True], ids=["messages", "shared-memory"])
async def either(
    request: pytest.FixtureRequest, server: TritonServer
) -> AsyncIterator[TritonClient]:
    """A client whose tensors travel the one way or the other."""
    client = client_of(server.address, shared_memory=request.param)
    yield client
    await client.close()


@pytest.fixture(scope="module")
async def client(server: TritonServer) -> AsyncIterator[TritonClient]:
    client = client_of(server.address)
    yield client
    await client.close()


async def test_the_server_is_ready_once_both_models_are(
    server: TritonServer, client: TritonClient
) -> None:
    assert server.is_ready()
    assert await client.is_ready()


async def test_tokens_are_a_skeleton(either: TritonClient) -> None:
    tokens = await tokens_of(either, {**SHORT, "skeleton_class": "articulationxl"})
    assert tokens[:2] == [BOS, CLASS_TOKENS["articulationxl"]]
    assert len(decode_skeleton(tokens).joints) == 12


async def test_a_whole_surface_has_a_skeleton_of_usual_size(
    server: TritonServer, either: TritonClient
) -> None:
    tokens = await tokens_of(either, {"max_tokens": 120}, ball(65536))
    assert 5 <= len(decode_skeleton(tokens).joints) <= 40


async def test_progress_comes_from_inside_the_model(either: TritonClient) -> None:
    seen = Seen()
    await tokens_of(either, SHORT, seen=seen)
    assert len(seen.shares) >= 8
    assert all(before <= after for before, after in pairwise(seen.shares))
    assert 0 <= seen.shares[0] < seen.shares[-1] <= 1
    assert seen.messages[:2] == ["Waiting for a free slot", "Reading the shape"]
    assert seen.has_joints


async def test_a_seed_decides_the_tokens(client: TritonClient) -> None:
    first, again, other = [await tokens_of(client, {**SHORT, "seed": seed}) for seed in (5, 5, 6)]
    assert first == again != other


async def test_requests_at_a_time_share_their_steps_and_get_what_each_gets_alone(
    server: TritonServer, client: TritonClient
) -> None:
    options: list[dict[str, object]] = [
        {**SHORT, "seed": seed, "max_joints": 40} for seed in (1, 2)
    ]
    alone = [await tokens_of(client, one) for one in options]
    shared, steps, rows = (metric(server, f"unirig_decode_{name}_total") for name in DECODING)
    together = await asyncio.gather(*(tokens_of(client, one) for one in options))
    assert together == alone
    shared, steps, rows = (
        metric(server, f"unirig_decode_{name}_total") - before
        for name, before in zip(DECODING, (shared, steps, rows), strict=True)
    )
    assert shared > 40
    assert steps < sum(len(tokens) for tokens in together)
    assert rows == 3 * (steps + shared)


DECODING = ("shared_steps", "steps", "rows")


async def test_more_requests_than_slots_wait_their_turn(client: TritonClient) -> None:
    found = await asyncio.gather(*(tokens_of(client, {**SHORT, "seed": n}) for n in range(7)))
    assert [len(decode_skeleton(tokens).joints) for tokens in found] == [12] * 7


async def test_a_cancelled_request_leaves_its_slot_within_a_second(
    server: TritonServer, either: TritonClient
) -> None:
    seen, kept = Seen(), Seen()
    going_on = asyncio.create_task(tokens_of(either, {"max_joints": 150}, seen=kept))
    cancelled = asyncio.create_task(tokens_of(either, {}, seen=seen))
    await until(lambda: seen.has_joints and kept.has_joints)
    await until(lambda: metric(server, "unirig_active_requests") == 2)
    cancelled.cancel()
    await until(lambda: metric(server, "unirig_active_requests") == 1, seconds=1)
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert len(decode_skeleton(await going_on).joints) == 150


async def test_a_cancelled_skin_ends_within_a_second(
    server: TritonServer, either: TritonClient
) -> None:
    seen = Seen()
    cancelled = asyncio.create_task(weights_of(either, 65536, seen, joints=40))
    await until(lambda: bool(seen.shares))
    assert metric(server, "unirig_active_requests", model=SKIN_MODEL) == 1
    cancelled.cancel()
    await until(lambda: metric(server, "unirig_active_requests") == 0, seconds=1)
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_a_request_that_waits_can_be_cancelled(
    server: TritonServer, either: TritonClient
) -> None:
    running, waiting = Seen(), Seen()
    first = asyncio.create_task(weights_of(either, 32768, running))
    await until(lambda: bool(running.shares))
    second = asyncio.create_task(weights_of(either, 32768, waiting))
    await asyncio.sleep(0.1)
    second.cancel()
    await first
    assert not waiting.shares
    assert np.allclose((await weights_of(either)).sum(axis=1), 1, atol=1e-5)


async def test_weights_are_a_skin(either: TritonClient) -> None:
    seen = Seen()
    weights = await weights_of(either, 32768, seen)
    assert weights.shape == (32768, JOINTS)
    assert weights.dtype == np.float32
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert (weights >= 0).all()
    assert len(seen.shares) >= 5
    assert all(before <= after for before, after in pairwise(seen.shares))


async def test_shared_memory_is_given_back_however_a_request_ends(server: TritonServer) -> None:
    client = client_of(server.address, shared_memory=True)
    seen = Seen()
    await weights_of(client)
    with pytest.raises(ModelError):
        await tokens_of(client, {"beams": 0})
    cancelled = asyncio.create_task(tokens_of(client, {}, seen=seen))
    await until(lambda: seen.has_joints)
    assert tensor_segments()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert not tensor_segments()
    await until(lambda: not client._unregistering)
    registered = await client._client.get_system_shared_memory_status()
    assert not registered.regions
    await client.close()


@pytest.mark.parametrize(
    ("points", "normals", "options"),
    [
        (SURFACE, SURFACE[:-1], {}),
        (SURFACE[:, :2], SURFACE[:, :2], {}),
        (SURFACE[:0], SURFACE[:0], {}),
        (SURFACE * np.float32(np.nan), SURFACE, {}),
        (SURFACE * 2, SURFACE, {}),
        (SURFACE, SURFACE, {"beams": 4}),
        (SURFACE, SURFACE, {"temperature": "hot"}),
        (SURFACE, SURFACE, {"skeleton_class": "fish"}),
        (SURFACE, SURFACE, {"min_joints": 4}),
    ],
)
async def test_a_skeleton_request_that_makes_no_sense_is_refused(
    either: TritonClient, points: Array, normals: Array, options: dict[str, object]
) -> None:
    with pytest.raises(ModelError) as failure:
        await either.predict_tokens(points, normals, options, Seen())
    assert failure.value.code == "INVALID_REQUEST"
    assert failure.value.detail


async def test_a_skin_request_that_makes_no_sense_is_refused(either: TritonClient) -> None:
    prior = np.full((2048, 2), 0.5, np.float32)
    joints, parents = SURFACE[:2], np.array([-1, 0], np.int32)
    changes: list[dict[str, npt.NDArray[Any]]] = [
        {"prior": prior[:-1]},
        {"prior": prior * np.float32(np.inf)},
        {"parents": np.array([-1, 1], np.int32)},
        {"joints": SURFACE[:3]},
        {"joints": joints * np.float32(np.nan)},
    ]
    for changed in changes:
        inputs: dict[str, npt.NDArray[Any]] = {
            "joints": joints,
            "parents": parents,
            "prior": prior,
            **changed,
        }
        with pytest.raises(ModelError) as failure:
            await either.predict_weights(SURFACE, SURFACE, on_progress=Seen(), **inputs)
        assert failure.value.code == "INVALID_REQUEST"


# Arrays of so many points are larger than what the C library keeps for later.
LARGE = 1 << 18


async def test_a_skeleton_without_memory_fails_alone(
    server: TritonServer, client: TritonClient
) -> None:
    before = metric(server, "unirig_out_of_memory_total")
    process = model_process(server, SKELETON_MODEL)
    surface, seen = ball(LARGE), Seen()
    await tokens_of(client, SHORT, surface)
    other = asyncio.create_task(tokens_of(client, {"max_joints": 150}, seen=seen))
    await until(lambda: seen.has_joints)
    with memory_limit(process, 16 << 20):
        with pytest.raises(ModelError) as failure:
            await tokens_of(client, SHORT, surface)
        assert len(decode_skeleton(await tokens_of(client, SHORT)).joints) == 12
    assert failure.value.code == "GPU_OUT_OF_MEMORY"
    assert "memory" in failure.value.detail
    assert len(decode_skeleton(await other).joints) == 150
    assert metric(server, "unirig_out_of_memory_total") == before + 1
    assert model_process(server, SKELETON_MODEL) == process
    assert len(decode_skeleton(await tokens_of(client, SHORT, surface)).joints) == 12


async def test_a_skin_without_memory_fails_alone(
    server: TritonServer, client: TritonClient
) -> None:
    process = model_process(server, SKIN_MODEL)
    # Refused at once, but Triton's own memory for inputs of this size is there from now on.
    surface, joints, parents = ball(LARGE), SURFACE[:2], np.array([-1, 0], np.int32)
    prior = np.full((LARGE, 2), 0.5, np.float32)
    with pytest.raises(ModelError, match="INVALID_REQUEST"):
        await client.predict_weights(surface, surface, joints, parents, -prior, Seen())
    with memory_limit(process, 32 << 20):
        with pytest.raises(ModelError) as failure:
            await client.predict_weights(surface, surface, joints, parents, prior, Seen())
        await weights_of(client)
    assert failure.value.code == "GPU_OUT_OF_MEMORY"
    assert model_process(server, SKIN_MODEL) == process
    assert (await weights_of(client, 32768)).shape == (32768, JOINTS)


Predict = Callable[[TritonClient], Awaitable[object]]


@pytest.mark.parametrize(
    ("model", "predict"),
    [(SKELETON_MODEL, lambda client: tokens_of(client, SHORT)), (SKIN_MODEL, weights_of)],
)
async def test_a_model_whose_process_died_is_loaded_anew(
    server: TritonServer, client: TritonClient, model: str, predict: Predict
) -> None:
    process = model_process(server, model)
    os.kill(process, signal.SIGKILL)
    await asyncio.gather(predict(client), predict(client))
    assert model_process(server, model) != process


async def test_a_skin_in_progress_survives_the_death_of_the_models_process(
    server: TritonServer, client: TritonClient
) -> None:
    seen = Seen()
    prediction = asyncio.create_task(weights_of(client, 65536, seen))
    await until(lambda: bool(seen.shares))
    os.kill(model_process(server, SKIN_MODEL), signal.SIGKILL)
    assert (await prediction).shape == (65536, JOINTS)


async def test_a_skeleton_in_progress_is_given_up_when_its_process_is_silent(
    server: TritonServer,
) -> None:
    client = client_of(server.address, idle_seconds=1.5)
    seen = Seen()
    prediction = asyncio.create_task(tokens_of(client, {}, seen=seen))
    await until(lambda: seen.has_joints)
    os.kill(model_process(server, SKELETON_MODEL), signal.SIGKILL)
    with pytest.raises(ModelServerError):
        await prediction
    assert len(decode_skeleton(await tokens_of(client, SHORT)).joints) == 12
    assert metric(server, "unirig_active_requests") == 0
    await client.close()


async def test_checkpoints_that_are_missing_or_damaged_are_named_until_they_are_there(
    checkpoints: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    server = start_triton(tmp_path / "triton", tiny_settings(folder))
    client = client_of(server.address)
    try:
        assert not server.is_ready()
        assert not await client.is_ready()
        with pytest.raises(ModelError) as missing:
            await tokens_of(client, SHORT)
        assert missing.value.code == "MODEL_CHECKPOINT_MISSING"
        assert "unirig fetch-models" in missing.value.detail
        assert "model.py" not in missing.value.detail
        write_tiny_checkpoints(folder)
        damaged = folder / "skeleton.safetensors"
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 1
        damaged.write_bytes(content)
        with pytest.raises(ModelError) as corrupt:
            await tokens_of(client, SHORT)
        assert corrupt.value.code == "MODEL_CHECKPOINT_MISSING"
        assert "cannot be used" in corrupt.value.detail
        assert "unirig fetch-models" in corrupt.value.detail
        damaged.write_bytes((checkpoints / damaged.name).read_bytes())
        assert len(decode_skeleton(await tokens_of(client, SHORT)).joints) == 12
    finally:
        await client.close()
        server.stop()


@dataclass
class Spare:
    """A server that tests may kill."""

    folder: Path
    settings: dict[str, str]
    server: TritonServer | None = None

    def running(self) -> TritonServer:
        """It, started if it does not run, at the address that it always had."""
        if self.server is None or self.server.process.poll() is not None:
            address = self.server.address if self.server else None
            self.server = start_triton(self.folder, self.settings, address=address)
        return self.server


@pytest.fixture(scope="module")
def spare(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spare]:
    spare = Spare(tmp_path_factory.mktemp("spare"), tiny_settings(checkpoints, LONG_TOKENS))
    yield spare
    if spare.server:
        spare.server.kill()


async def test_a_killed_server_is_worth_another_attempt(spare: Spare) -> None:
    server = spare.running()
    client = client_of(server.address, shared_memory=True)
    impatient = client_of(server.address, patience_seconds=0.5)
    seen = Seen()
    prediction = asyncio.create_task(tokens_of(client, {}, seen=seen))
    await until(lambda: seen.has_joints)
    server.kill()
    with pytest.raises(ModelServerError):
        await prediction
    assert not await client.is_ready()
    with pytest.raises(ModelServerError):
        await tokens_of(impatient, SHORT)
    again = asyncio.create_task(tokens_of(client, SHORT))
    await asyncio.to_thread(spare.running)
    assert len(decode_skeleton(await again).joints) == 12
    assert not tensor_segments()
    await client.close()
    await impatient.close()


async def test_a_frozen_server_is_given_up(spare: Spare) -> None:
    server = spare.running()
    client = client_of(server.address, idle_seconds=1.5)
    seen = Seen()
    prediction = asyncio.create_task(tokens_of(client, {}, seen=seen))
    await until(lambda: seen.has_joints)
    for pid in (server.process.pid, *descendants(server.process.pid)):
        os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    with pytest.raises(ModelServerError):
        await prediction
    assert time.monotonic() - stopped < 20
    await client.close()
    server.kill()
