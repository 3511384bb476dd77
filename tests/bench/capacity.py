"""Measures what one process of each service carries: requests, WebSockets, files, jobs and rigs.

    make bench-capacity        or: python -m tests.bench.capacity --model model.obj

CPU seconds are the figure to plan with: the services, NATS, Redis and the load share the machine's
cores, so rates by the clock say less than one core for each would give. They are read from
/proc/<pid>/stat, and include the steps that a worker runs. Requests come from wrk, over many
sessions, so that no session's record is larger than in real life.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import nats
import redis
from nats.aio.client import Client as Connection
from unirig.v1 import jobs_pb2, messages_pb2, storage_pb2, storage_pb2_grpc
from websockets.asyncio.client import connect

from services.cli.character import write_character
from services.cli.servers import free_port
from services.cli.stack import SERVICES, Stack
from services.common import subjects
from services.common.rpc import open_channel
from tests.bench.large_model import StepMemory
from tests.bench.upload_memory import memory
from tests.bench.upload_memory import upload as upload_megabytes
from tests.job_services import figure_obj

# Nobody is refused for asking much.
LIMITS = {
    "RATE_LIMIT_UPLOADS_PER_HOUR": "100000",
    "RATE_LIMIT_API_PER_HOUR": "100000000",
    "RATE_LIMIT_NEW_SESSIONS_PER_HOUR": "100000",
}
SCRIPT = Path(__file__).with_suffix(".lua")
CONNECTIONS = 16
# The largest upload is 100 MiB with its envelope.
LARGE_MIB = 95
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 2**20


class Stand:
    """The stack and its processes."""

    def __init__(self, stack: Stack, *, has_worker: bool) -> None:
        self.stack = stack
        if not has_worker:
            stack.stop_service("inference")
        servers = {server.name: server for server in stack._servers}
        self._redis = redis.Redis.from_url(servers["redis"].url)
        self.nats_url = servers["nats"].url
        self.pids = {name: server.process.pid for name, server in servers.items()} | {
            name: stack.pid_of(name) for name in SERVICES if has_worker or name != "inference"
        }

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, of each process and its children that have ended."""
        return {name: _cpu_seconds(pid) for name, pid in self.pids.items()}

    def redis_bytes(self) -> int:
        """What Redis's data take of memory."""
        return int(self._redis.info("memory")["used_memory"])

    def request_log(self, session_id: str) -> tuple[int, int]:
        """How many requests of the last hour are kept for a session, and their bytes in Redis."""
        key = f"sessions:rate:api:{session_id}"
        return int(self._redis.zcard(key)), int(self._redis.memory_usage(key, samples=0) or 0)

    def journal_bytes(self) -> int:
        """The size of Redis's append-only file."""
        return int(self._redis.info("persistence")["aof_current_size"])

    def setting(self, service: str, name: str) -> str:
        return self.stack._services[service].environment[name]


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


@dataclass
class Spent:
    """What a block took. cpu: seconds by process; seconds: by the clock."""

    cpu: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def per(self, count: float, names: Sequence[str], unit: float = 1e3) -> list[str]:
        """CPU time of each process for one of count, in milliseconds or another unit."""
        return [f"{self.cpu[name] / count * unit:.2f}" for name in names]


@contextlib.contextmanager
def spent(stand: Stand) -> Iterator[Spent]:
    result, before, start = Spent(), stand.cpu(), time.perf_counter()
    yield result
    result.seconds = time.perf_counter() - start
    result.cpu = {name: value - before[name] for name, value in stand.cpu().items()}


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As Markdown, the first column text and the others numbers."""
    print(f"\n| {' | '.join(head)} |")
    print(f"| --- |{' ---: |' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


@dataclass(frozen=True)
class Session:
    cookie: str
    token: str

    @property
    def id(self) -> str:
        return self.cookie.partition(".")[0]

    @property
    def headers(self) -> dict[str, str]:
        return {"Cookie": f"session_id={self.cookie}", "X-CSRF-Token": self.token}


async def open_sessions(http: httpx.AsyncClient, count: int) -> list[Session]:
    sessions = []
    for _ in range(count):
        answer = (await http.get("/api/csrf-token")).raise_for_status()
        cookie = answer.headers["set-cookie"].partition("session_id=")[2].partition(";")[0]
        sessions.append(Session(cookie, answer.json()["csrf_token"]))
        http.cookies.clear()
    return sessions


async def upload(http: httpx.AsyncClient, session: Session) -> str:
    answer = await http.post(
        "/api/upload", files={"file": ("hero.obj", figure_obj())}, headers=session.headers
    )
    return str(answer.raise_for_status().json()["path"])


async def begin(http: httpx.AsyncClient, session: Session, path: str) -> str:
    answer = await http.post(
        "/api/jobs/skeleton", json={"input_file": path}, headers=session.headers
    )
    return str(answer.raise_for_status().json()["job_id"])


async def measure_requests(stand: Stand, http: httpx.AsyncClient, seconds: int) -> None:
    """What requests cost. The jobs that they ask for wait: there is no worker."""
    sessions = await open_sessions(http, 200)
    lines: dict[str, list[str]] = {"job": [], "refused": [], "health": []}
    for session in sessions:
        path = await upload(http, session)
        job_id = await begin(http, session, path)
        credentials = f"{session.cookie} {session.token}"
        body = json.dumps({"input_file": path}, separators=(",", ":"))
        lines["job"].append(f"/api/jobs/{job_id} {credentials} -")
        lines["refused"].append(f"/api/jobs/skeleton {credentials} {body}")
        lines["health"].append(f"/api/health {credentials} -")
    services = ("gateway", "sessions", "jobs", "storage", "redis")
    rows = []
    for title, method, name, refused in (
        ("GET /api/jobs/{id}", "GET", "job", False),
        ("POST /api/jobs/skeleton, 409", "POST", "refused", True),
        ("GET /api/health", "GET", "health", False),
    ):
        with spent(stand) as cost:
            counted = run_wrk(stand.stack.url, method, lines[name], seconds)
        count = counted["requests"]
        assert counted["lost"] == 0, counted
        assert counted["refused"] == (count if refused else 0), counted
        row = [
            title,
            f"{count / cost.seconds:,.0f}",
            f"{counted['p50']:.0f}",
            f"{counted['p99']:.0f}",
        ]
        row += cost.per(count, services)
        row += [f"{count / cost.cpu['gateway']:,.0f}"]
        rows.append(row)
    print_table(
        [
            f"{CONNECTIONS} connections",
            "requests/s here",
            "p50 ms",
            "p99 ms",
            *(f"{name} CPU ms" for name in services),
            "a gateway's core carries, /s",
        ],
        rows,
    )
    kept, size = stand.request_log(sessions[0].id)
    print(f"\nRedis keeps {kept} requests of a session for an hour in {size:,} bytes")


def run_wrk(url: str, method: str, lines: Sequence[str], seconds: int) -> dict[str, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(lines))
        file.flush()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", SCRIPT, url]
        printed = subprocess.run(
            [*command, "--", file.name, method], check=True, capture_output=True, text=True
        ).stdout
    return dict(json.loads(printed.splitlines()[-1]))


async def measure_websockets(
    stand: Stand, http: httpx.AsyncClient, count: int, seconds: int
) -> None:
    """What clients cost that only listen, each in a session of its own."""
    sessions = await open_sessions(http, count)
    url = stand.stack.url.replace("http", "ws")
    before = memory(stand.pids["gateway"], "VmRSS")
    async with contextlib.AsyncExitStack() as open_sockets:
        for session in sessions:
            headers = {"Cookie": session.headers["Cookie"]}
            socket = connect(f"{url}/ws?session={session.id}", additional_headers=headers)
            await open_sockets.enter_async_context(socket)
        rise = memory(stand.pids["gateway"], "VmRSS") - before
        with spent(stand) as cost:
            await asyncio.sleep(seconds)
    services = ("gateway", "jobs", "redis")
    row = [f"{count} idle WebSockets", f"{rise:.0f}", f"{rise / count * 1024:.0f}"]
    row += cost.per(count * seconds / 1000, services)
    head = ["", "MiB", "KiB each", *(f"{name} CPU ms/s for 1000" for name in services)]
    print_table(head, [row])


async def measure_transfers(stand: Stand, http: httpx.AsyncClient) -> None:
    """What a large file costs on its way in and out."""
    services = ("gateway", "storage", "sessions")
    rows = []
    with spent(stand) as cost:
        size = await asyncio.to_thread(upload_megabytes, stand.stack.url, LARGE_MIB)
    rows.append(["upload", f"{size / cost.seconds / MIB:.0f}", *cost.per(size / 1e8, services, 1)])
    [session] = await open_sessions(http, 1)
    path = await put_result(stand, session.id)
    with spent(stand) as cost:
        async with http.stream("GET", path) as answer:
            size = sum([len(chunk) async for chunk in answer.aiter_raw()])
    assert size == LARGE_MIB * MIB
    rows.append(
        ["download", f"{size / cost.seconds / MIB:.0f}", *cost.per(size / 1e8, services, 1)]
    )
    head = [f"a file of {LARGE_MIB} MiB", "MiB/s here"]
    print_table([*head, *(f"{name} CPU s per 100 MB" for name in services)], rows)


async def put_result(stand: Stand, session_id: str) -> str:
    """Stores a large result as a worker would; returns its path."""

    async def parts() -> AsyncIterator[storage_pb2.PutFileRequest]:
        yield storage_pb2.PutFileRequest(
            header=storage_pb2.PutFileHeader(
                session_id=session_id,
                area=storage_pb2.AREA_RESULTS,
                filename="large.glb",
                lineage=storage_pb2.Lineage(job_id=session_id, stage="merge"),
            )
        )
        for _ in range(LARGE_MIB):
            yield storage_pb2.PutFileRequest(chunk=bytes(MIB))
        yield storage_pb2.PutFileRequest(commit=storage_pb2.PutFileCommit())

    address = f"127.0.0.1:{stand.setting('storage', 'GRPC_PORT')}"
    async with open_channel(address, "unirig.v1.StorageService", []) as channel:
        stub = storage_pb2_grpc.StorageServiceStub(channel)
        return str((await stub.PutFile(parts(), timeout=120)).file.path)


async def measure_jobs(stand: Stand, http: httpx.AsyncClient, count: int) -> None:
    """What a job costs all but the worker, whose place one takes that only says it works."""
    sessions = await open_sessions(http, count)
    paths = [await upload(http, session) for session in sessions]
    connection = await nats.connect(stand.nats_url)
    jetstream = connection.jetstream()
    redis_before = stand.redis_bytes()
    events_before = (await jetstream.stream_info(subjects.EVENTS_STREAM)).state.bytes
    journal_before = stand.journal_bytes()
    with spent(stand) as cost:
        working = asyncio.create_task(pretend(connection, count))
        for session, path in zip(sessions, paths, strict=True):
            await begin(http, session, path)
        await working
        await applied(connection)
    events = (await jetstream.stream_info(subjects.EVENTS_STREAM)).state.bytes - events_before
    await connection.close()
    services = ("gateway", "sessions", "jobs", "storage", "nats", "redis")
    row = [
        f"{count} jobs, created and done",
        f"{count / cost.seconds:.0f}",
        *cost.per(count, services),
    ]
    row += [
        f"{size / count:,.0f}"
        for size in (
            stand.redis_bytes() - redis_before,
            stand.journal_bytes() - journal_before,
            events,
        )
    ]
    print_table(
        [
            "",
            "jobs/s here",
            *(f"{name} CPU ms" for name in services),
            "Redis bytes",
            "append-only file bytes",
            "JetStream bytes",
        ],
        [row],
    )


async def pretend(connection: Connection, count: int) -> None:
    """Takes jobs and completes them as a worker would, with five reports of progress."""
    jetstream = connection.jetstream()
    queue = await jetstream.pull_subscribe_bind(subjects.JOBS_CONSUMER, subjects.JOBS_STREAM)
    for _ in range(count):
        [message] = await queue.fetch(1, timeout=60)
        run = messages_pb2.RunJob.FromString(message.data)
        claim = messages_pb2.ClaimJob(
            job_id=run.job_id, attempt=1, engine="geometric", engine_version="1.0.0"
        ).SerializeToString()
        await connection.request(subjects.CLAIM, claim, timeout=10)
        for percent in (5, 25, 50, 75, 93):
            report = messages_pb2.JobProgress(
                job_id=run.job_id, attempt=1, progress=percent, message="Predicting the skeleton"
            )
            await connection.publish(subjects.progress(run.job_id), report.SerializeToString())
        await connection.request(subjects.CLAIM, claim, timeout=10)
        stem = f"/results/{run.session_id}/hero_skeleton"
        artifacts = [
            jobs_pb2.Artifact(format=suffix, path=f"{stem}.{suffix}", size=50_000)
            for suffix in ("obj", "fbx", "glb", "npz")
        ]
        outcome = messages_pb2.JobOutcome(
            job_id=run.job_id,
            attempt=1,
            succeeded=messages_pb2.JobSucceeded(output_file=f"{stem}.obj", artifacts=artifacts),
        )
        await jetstream.publish(
            subjects.JOB_OUTCOME,
            outcome.SerializeToString(),
            headers={"Nats-Msg-Id": f"{run.job_id}-1"},
        )
        await message.ack()
    await connection.flush()


async def applied(connection: Connection) -> None:
    """Waits until the jobs service has taken all outcomes."""
    while True:
        info = await connection.jetstream().consumer_info(
            subjects.EVENTS_STREAM, subjects.OUTCOMES_CONSUMER
        )
        if not info.num_pending and not info.num_ack_pending:
            return
        await asyncio.sleep(0.1)


async def measure_rigs(stand: Stand, http: httpx.AsyncClient, models: Sequence[Path]) -> None:
    """What a worker needs to rig: skeleton, skinning weights, merge to FBX."""
    rows = []
    for model in models:
        [session] = await open_sessions(http, 1)
        answer = await http.post(
            "/api/upload", files={"file": (model.name, model.read_bytes())}, headers=session.headers
        )
        path = str(answer.raise_for_status().json()["path"])
        outputs: list[str] = []
        with StepMemory(stand.pids["inference"]) as steps:
            for kind in ("skeleton", "skinning", "merge"):
                inputs = {"input_file": (outputs or [path])[-1]}
                if kind == "merge":
                    inputs = {"skeleton_file": outputs[0], "skinning_file": outputs[1]}
                with spent(stand) as cost:
                    job = await rigged(http, session, kind, inputs)
                outputs.append(str(job["output_file"]))
                size = sum(artifact["size"] for artifact in job["artifacts"])
                rows.append(
                    [
                        f"{model.name}: {kind}",
                        *cost.per(1, ("inference",), 1),
                        f"{cost.seconds:.1f}",
                        f"{max(steps.peaks.values()):,.0f}",
                        f"{size / MIB:.2f}",
                    ]
                )
                steps.peaks.clear()
    worker = memory(stand.pids["inference"], "VmRSS")
    head = ["geometric engine", "worker CPU s", "s here", "largest step MiB", "results MiB"]
    print_table(head, rows)
    print(f"\nThe worker's own process, beside its step: {worker:.0f} MiB")


async def rigged(
    http: httpx.AsyncClient, session: Session, kind: str, inputs: dict[str, str]
) -> dict[str, Any]:
    answer = await http.post(f"/api/jobs/{kind}", json=inputs, headers=session.headers)
    job_id = answer.raise_for_status().json()["job_id"]
    while True:
        job = (await http.get(f"/api/jobs/{job_id}", headers=session.headers)).json()
        if job["status"] not in ("pending", "running"):
            assert job["status"] == "completed", job
            return dict(job)
        await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def standing(has_worker: bool = False) -> AsyncIterator[tuple[Stand, httpx.AsyncClient]]:
    """A stack that nothing was done with, and a client of it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(Path(folder), free_port(), settings=LIMITS) as stack,
    ):
        async with httpx.AsyncClient(base_url=stack.url, timeout=120) as http:
            yield Stand(stack, has_worker=has_worker), http


async def measure(arguments: argparse.Namespace) -> None:
    async with standing() as place:
        await measure_requests(*place, arguments.seconds)
    async with standing() as place:
        await measure_websockets(*place, arguments.sockets, arguments.seconds)
    async with standing() as place:
        await measure_transfers(*place)
    async with standing() as place:
        await measure_jobs(*place, arguments.jobs)
    with tempfile.TemporaryDirectory() as folder:
        character = Path(folder) / "character.glb"
        write_character(character)
        async with standing(has_worker=True) as place:
            await measure_rigs(*place, [character, *arguments.model])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=30, help="of each kind of request")
    parser.add_argument("--sockets", type=int, default=1000, help="idle WebSockets")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs without a worker")
    parser.add_argument("--model", type=Path, action="append", default=[], help="also to be rigged")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("The load comes from wrk: install it (Debian: apt-get install wrk)")
    # Every WebSocket is an open file here and in the gateway.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(shlex.join(["python", "-m", "tests.bench.capacity", *sys.argv[1:]]))
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    asyncio.run(measure(arguments))
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


if __name__ == "__main__":
    main()
