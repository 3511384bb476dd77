"""Storage, jobs and inference workers as processes of their own, and a client of their gRPC."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unirig.v1 import jobs_pb2, jobs_pb2_grpc, storage_pb2, storage_pb2_grpc

from services.cli.servers import LocalServer, free_port, start_nats, start_redis
from services.common.rpc import open_channel
from tests.service_process import HOST, ServiceProcess

ENDED = {
    jobs_pb2.JOB_STATUS_COMPLETED,
    jobs_pb2.JOB_STATUS_FAILED,
    jobs_pb2.JOB_STATUS_CANCELLED,
}


@dataclass
class JobServices:
    """Everything that a job needs but the workers; and what a test wants of it."""

    folder: Path
    nats: LocalServer
    storage: ServiceProcess
    jobs: ServiceProcess
    jobs_stub: "jobs_pb2_grpc.JobsServiceAsyncStub"
    storage_stub: "storage_pb2_grpc.StorageServiceAsyncStub"
    session_id: str = field(default_factory=lambda: secrets.token_hex(16))
    workers: list[ServiceProcess] = field(default_factory=list)

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def worker(self, **settings: str) -> ServiceProcess:
        """A worker that is not started yet."""
        environment = {
            "NATS_URL": self.nats.url,
            "STORAGE_ADDRESS": f"{HOST}:{self.storage.environment['GRPC_PORT']}",
            "SCRATCH_FOLDER": str(self.scratch),
            "STEP_THREADS": "1",
            **settings,
        }
        worker = ServiceProcess("inference", environment, self.folder / "inference.log")
        self.workers.append(worker)
        return worker

    def restart_nats(self) -> None:
        """Kills NATS and starts it again with what it has on disk."""
        self.nats.process.kill()
        self.nats.process.wait()
        port = int(self.nats.url.rpartition(":")[2])
        self.nats = start_nats(self.folder / "nats", port)

    def new_session(self) -> None:
        self.session_id = secrets.token_hex(16)

    async def upload(self, filename: str, content: bytes) -> str:
        """Stores an upload; returns its path."""

        async def parts() -> AsyncIterator[storage_pb2.PutFileRequest]:
            header = storage_pb2.PutFileHeader(
                session_id=self.session_id, area=storage_pb2.AREA_UPLOADS, filename=filename
            )
            yield storage_pb2.PutFileRequest(header=header)
            for start in range(0, len(content), 2**20):
                yield storage_pb2.PutFileRequest(chunk=content[start : start + 2**20])
            yield storage_pb2.PutFileRequest(commit=storage_pb2.PutFileCommit())

        return str(
            (await self.storage_stub.PutFile(parts(), timeout=60, wait_for_ready=True)).file.path
        )

    async def content(self, path: str) -> bytes:
        request = storage_pb2.GetFileRequest(session_id=self.session_id, path=path)
        parts = self.storage_stub.GetFile(request, timeout=60, wait_for_ready=True)
        return b"".join([part.chunk async for part in parts])

    async def describe(self, path: str) -> storage_pb2.FileInfo:
        request = storage_pb2.StatFileRequest(session_id=self.session_id, path=path)
        return (await self.storage_stub.StatFile(request, timeout=10, wait_for_ready=True)).file

    async def results_stored(self) -> int:
        request = storage_pb2.GetUsageRequest(session_id=self.session_id)
        return int(
            (await self.storage_stub.GetUsage(request, timeout=10, wait_for_ready=True)).results
        )

    async def create(self, job_type: Any, input_file: str, **spec: str) -> str:
        """Starts a job; returns its id."""
        request = jobs_pb2.CreateJobRequest(
            session_id=self.session_id,
            spec=jobs_pb2.JobSpec(type=job_type, input_file=input_file, **spec),
        )
        return str(
            (await self.jobs_stub.CreateJob(request, timeout=10, wait_for_ready=True)).job.job_id
        )

    async def job(self, job_id: str) -> jobs_pb2.Job:
        request = jobs_pb2.GetJobRequest(session_id=self.session_id, job_id=job_id)
        return (await self.jobs_stub.GetJob(request, timeout=10, wait_for_ready=True)).job

    async def cancel(self, job_id: str) -> None:
        request = jobs_pb2.CancelJobRequest(session_id=self.session_id, job_id=job_id)
        await self.jobs_stub.CancelJob(request, timeout=10, wait_for_ready=True)

    async def when(
        self, job_id: str, condition: Callable[[jobs_pb2.Job], bool], seconds: float = 120
    ) -> jobs_pb2.Job:
        """The job once the condition holds; fails where that takes too long."""
        deadline = time.monotonic() + seconds
        while not condition(job := await self.job(job_id)):
            assert time.monotonic() < deadline, job
            await asyncio.sleep(0.02)
        return job

    async def ended(self, job_id: str) -> jobs_pb2.Job:
        return await self.when(job_id, lambda job: job.status in ENDED)

    async def finished(self, job_type: Any, input_file: str, **spec: str) -> jobs_pb2.Job:
        """Runs a job to its end, which must be success."""
        job = await self.ended(await self.create(job_type, input_file, **spec))
        log = (self.folder / "inference.log").read_text()[-4000:]
        assert job.status == jobs_pb2.JOB_STATUS_COMPLETED, f"{job}\n{log}"
        return job


@asynccontextmanager
async def job_services(folder: Path, **jobs_settings: str) -> AsyncIterator[JobServices]:
    """NATS, Redis, storage and jobs of their own, ready."""
    nats = start_nats(folder / "nats", free_port())
    redis = start_redis(folder / "redis", free_port())
    common = {"NATS_URL": nats.url}
    storage_port, jobs_port = free_port(), free_port()
    storage = ServiceProcess(
        "storage",
        {
            **common,
            "GRPC_PORT": str(storage_port),
            "STORAGE_FOLDER": str(folder / "storage"),
            "DISK_WARNING_GB": "0",
            "DISK_CRITICAL_GB": "0",
        },
        folder / "storage.log",
    )
    jobs = ServiceProcess(
        "jobs",
        {**common, "GRPC_PORT": str(jobs_port), "REDIS_URL": redis.url, **jobs_settings},
        folder / "jobs.log",
    )
    async with (
        open_channel(f"{HOST}:{storage_port}", "unirig.v1.StorageService", []) as to_storage,
        open_channel(f"{HOST}:{jobs_port}", "unirig.v1.JobsService", []) as to_jobs,
    ):
        services = JobServices(
            folder,
            nats,
            storage,
            jobs,
            jobs_pb2_grpc.JobsServiceStub(to_jobs),
            storage_pb2_grpc.StorageServiceStub(to_storage),
        )
        try:
            storage.start()
            jobs.start()
            yield services
        finally:
            for service in (*services.workers, jobs, storage):
                if service.process is not None:
                    service.kill()
            redis.stop()
            services.nats.stop()


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for the condition; fails where that takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """The living processes below a process, from /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    found, below = [], [pid]
    while below:
        below = [child for child, parent in parents.items() if parent in below]
        found += below
    return found


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def figure_obj() -> bytes:
    """A person of boxes, 1.7 m tall, arms out, facing +Z: small enough to be rigged quickly."""
    boxes = {
        "torso": ((-0.18, 0.85, -0.1), (0.18, 1.4, 0.1)),
        "head": ((-0.1, 1.38, -0.1), (0.1, 1.7, 0.12)),
        "left_arm": ((0.16, 1.26, -0.05), (0.8, 1.38, 0.05)),
        "right_arm": ((-0.8, 1.26, -0.05), (-0.16, 1.38, 0.05)),
        "left_leg": ((0.03, 0.0, -0.07), (0.16, 0.9, 0.07)),
        "right_leg": ((-0.16, 0.0, -0.07), (-0.03, 0.9, 0.07)),
        "left_foot": ((0.03, 0.0, -0.07), (0.16, 0.08, 0.2)),
        "right_foot": ((-0.16, 0.0, -0.07), (-0.03, 0.08, 0.2)),
    }
    quads = ("1 3 4 2", "5 6 8 7", "1 2 6 5", "3 7 8 4", "1 5 7 3", "2 4 8 6")
    lines = []
    for number, (name, corners) in enumerate(boxes.items()):
        lines.append(f"o {name}")
        lines += [
            f"v {corners[x][0]} {corners[y][1]} {corners[z][2]}"
            for x in (0, 1)
            for y in (0, 1)
            for z in (0, 1)
        ]
        lines += [
            "f " + " ".join(str(int(index) + 8 * number) for index in quad.split())
            for quad in quads
        ]
    return "\n".join(lines).encode()
