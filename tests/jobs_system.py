"""The jobs service as a process with real NATS and Redis, and a worker that obeys its rules."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from unirig.v1 import jobs_pb2, jobs_pb2_grpc, messages_pb2

from services.cli.servers import LocalServer, free_port, start_nats, start_redis, wait_for_port
from services.common import broker, subjects
from services.common.errors import ApiError, api_error_of
from services.common.rpc import open_channel

ACK_WAIT_SECONDS = 1.0
ROOT = Path(__file__).parents[1]
Seen = TypeVar("Seen")


async def eventually(look: Callable[[], Awaitable[Seen]], seconds: float = 20) -> Seen:
    """What look answers, as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (seen := await look()):
        assert time.monotonic() < deadline, "it does not happen"
        await asyncio.sleep(0.02)
    return seen


async def refused(call: Awaitable[Any]) -> ApiError:
    """The refusal that the call must end with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as failure:
        return api_error_of(failure)
    raise AssertionError(f"not refused: {answer}")


def new_session() -> str:
    return uuid.uuid4().hex


class JobsProcess:
    """One replica of the service."""

    def __init__(self, nats_url: str, redis_url: str, log: Path) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")]),
            "BIND_HOST": "127.0.0.1",
            "GRPC_PORT": str(self.port),
            "METRICS_PORT": str(self.metrics_port),
            "NATS_URL": nats_url,
            "REDIS_URL": redis_url,
            "ACK_WAIT_SECONDS": str(ACK_WAIT_SECONDS),
            "SWEEP_SECONDS": "0.2",
        }
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.jobs"],
                env=environment,
                stdout=output,
                stderr=output,
            )
        assert wait_for_port(self.port, self.process), log.read_text()
        self.channel = open_channel(
            f"127.0.0.1:{self.port}", "unirig.v1.JobsService", ["GetJob", "ListJobs", "CountJobs"]
        )
        self.stub = jobs_pb2_grpc.JobsServiceStub(self.channel)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """Asks it to end; its exit code."""
        self.process.terminate()
        return self.process.wait(20)


class JobsSystem:
    """NATS, Redis and one or more replicas of the service. The first replica is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._nats_port, self._redis_port = free_port(), free_port()
        self.nats: LocalServer = self.start_nats()
        self.redis: LocalServer = self.start_redis()
        self.replicas: list[JobsProcess] = []
        self.connection: Client

    async def open(self) -> "JobsSystem":
        self.start_jobs()
        self.connection = await broker.connect(self.nats.url, "test")
        return self

    async def close(self) -> None:
        await self.connection.close()
        for replica in self.replicas:
            await replica.channel.close()
            replica.kill()
        self.nats.stop()
        self.redis.stop()

    def start_nats(self, store: str = "nats") -> LocalServer:
        self.nats = start_nats(self.folder / store, self._nats_port)
        return self.nats

    def start_redis(self) -> LocalServer:
        self.redis = start_redis(self.folder / "redis", self._redis_port)
        return self.redis

    def start_jobs(self) -> JobsProcess:
        replica = JobsProcess(self.nats.url, self.redis.url, self.folder / "jobs.log")
        self.replicas.append(replica)
        return replica

    async def restart_jobs(self) -> None:
        """After a kill."""
        await self.replicas.pop().channel.close()
        self.start_jobs()

    @property
    def stub(self) -> "jobs_pb2_grpc.JobsServiceAsyncStub":
        return self.replicas[0].stub

    @property
    def jetstream(self) -> JetStreamContext:
        return self.connection.jetstream(timeout=2)

    async def create(
        self, session: str, job_type: Any = jobs_pb2.JOB_TYPE_SKELETON
    ) -> jobs_pb2.Job:
        spec = jobs_pb2.JobSpec(type=job_type, input_file=f"/uploads/{session}/model.obj")
        request = jobs_pb2.CreateJobRequest(session_id=session, spec=spec)
        return (await self.stub.CreateJob(request, timeout=10)).job

    async def get(self, job: jobs_pb2.Job) -> jobs_pb2.Job:
        request = jobs_pb2.GetJobRequest(session_id=job.session_id, job_id=job.job_id)
        return (await self.stub.GetJob(request, timeout=10)).job

    async def cancel(self, job: jobs_pb2.Job) -> jobs_pb2.Job:
        request = jobs_pb2.CancelJobRequest(session_id=job.session_id, job_id=job.job_id)
        return (await self.stub.CancelJob(request, timeout=10)).job

    async def delete(self, job: jobs_pb2.Job) -> None:
        request = jobs_pb2.DeleteJobRequest(session_id=job.session_id, job_id=job.job_id)
        await self.stub.DeleteJob(request, timeout=10)

    async def list(self, session: str, **page: Any) -> jobs_pb2.ListJobsResponse:
        request = jobs_pb2.ListJobsRequest(session_id=session, **{"limit": 50, **page})
        return await self.stub.ListJobs(request, timeout=10)

    async def reaches(self, job: jobs_pb2.Job, status: Any) -> jobs_pb2.Job:
        """The job, once it is in that state."""

        async def look() -> jobs_pb2.Job | None:
            now = await self.get(job)
            return now if now.status == status else None

        found = await eventually(look)
        assert found
        return found

    async def take(self, seconds: float = 10) -> "Delivery":
        """The next command, as a worker gets it."""
        subscription = await self.jetstream.pull_subscribe_bind(
            subjects.JOBS_CONSUMER, subjects.JOBS_STREAM
        )
        try:
            message = (await subscription.fetch(1, timeout=seconds))[0]
        finally:
            await subscription.unsubscribe()
        return Delivery(self, message, messages_pb2.RunJob.FromString(message.data))

    @contextlib.asynccontextmanager
    async def idle_worker(self) -> AsyncIterator[None]:
        """A worker that asks for more: JetStream looks at used up deliveries only then."""
        waiting = asyncio.create_task(self.take(60))
        yield
        waiting.cancel()
        await asyncio.wait({waiting})

    async def run(self, session: str, **outcome: Any) -> jobs_pb2.Job:
        """A job that a worker has taken to its end."""
        job = await self.create(session)
        while not await (delivery := await self.take()).claim():
            await delivery.message.ack()
        assert delivery.command.job_id == job.job_id
        await delivery.finish(**outcome)
        ended = jobs_pb2.JOB_STATUS_FAILED if outcome else jobs_pb2.JOB_STATUS_COMPLETED
        return await self.reaches(job, ended)

    async def listen(self, subject: str) -> "Listener":
        return await Listener.of(self.connection, subject)

    async def messages_in(self, stream: str) -> int:
        return (await self.jetstream.stream_info(stream)).state.messages

    async def end_session(self, session: str) -> None:
        event = messages_pb2.SessionEnded(session_id=session)
        await self.jetstream.publish(subjects.SESSION_ENDED, event.SerializeToString())

    async def claim(self, job_id: str, attempt: int) -> bool:
        request = messages_pb2.ClaimJob(
            job_id=job_id, attempt=attempt, engine="geometric", engine_version="7"
        )
        reply = await self.connection.request(
            subjects.CLAIM, request.SerializeToString(), timeout=5
        )
        return messages_pb2.ClaimDecision.FromString(reply.data).granted

    async def report(self, job_id: str, attempt: int, progress: int, message: str = "") -> None:
        report = messages_pb2.JobProgress(
            job_id=job_id, attempt=attempt, progress=progress, message=message
        )
        await self.connection.publish(subjects.progress(job_id), report.SerializeToString())
        await self.connection.flush()

    async def publish_outcome(self, outcome: messages_pb2.JobOutcome) -> None:
        await self.jetstream.publish(subjects.JOB_OUTCOME, outcome.SerializeToString())


@dataclass(frozen=True)
class Delivery:
    """A command in a worker's hand."""

    system: JobsSystem
    message: Msg
    command: messages_pb2.RunJob

    @property
    def attempt(self) -> int:
        return self.command.attempts_before + self.message.metadata.num_delivered

    async def claim(self) -> bool:
        return await self.system.claim(self.command.job_id, self.attempt)

    async def progress(self, progress: int, message: str = "") -> None:
        await self.system.report(self.command.job_id, self.attempt, progress, message)

    async def hand_back(self) -> None:
        """What a worker does that has to stop."""
        await self.system.publish_outcome(handed_back(self.command.job_id, self.attempt))
        await self.message.ack()

    async def finish(self, error: str = "", code: str = "") -> None:
        """Reports success or the error, and then acks."""
        await self.system.publish_outcome(
            failure(self.command.job_id, self.attempt, error, code)
            if error
            else success(self.command.job_id, self.command.session_id, self.attempt)
        )
        await self.message.ack()


def success(job_id: str, session: str, attempt: int) -> messages_pb2.JobOutcome:
    path = f"/results/{session}/model_skeleton.obj"
    return messages_pb2.JobOutcome(
        job_id=job_id,
        attempt=attempt,
        succeeded=messages_pb2.JobSucceeded(
            output_file=path,
            artifacts=[jobs_pb2.Artifact(format="obj", path=path, size=7)],
            notes=["The existing rig was replaced"],
        ),
    )


def failure(job_id: str, attempt: int, error: str, code: str) -> messages_pb2.JobOutcome:
    failed = messages_pb2.JobFailed(error=error, error_code=code)
    return messages_pb2.JobOutcome(job_id=job_id, attempt=attempt, failed=failed)


def handed_back(job_id: str, attempt: int) -> messages_pb2.JobOutcome:
    return messages_pb2.JobOutcome(
        job_id=job_id, attempt=attempt, handed_back=messages_pb2.JobHandedBack()
    )


class Listener:
    """What is said on a subject from now on."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()

    @classmethod
    async def of(cls, connection: Client, subject: str) -> "Listener":
        listener = cls()

        async def hear(message: Msg) -> None:
            listener._queue.put_nowait(message.data)

        await connection.subscribe(subject, cb=hear)
        await connection.flush()
        return listener

    async def next(self, seconds: float = 10) -> bytes:
        return await asyncio.wait_for(self._queue.get(), seconds)

    async def next_change(self) -> jobs_pb2.Job:
        return messages_pb2.JobChanged.FromString(await self.next()).job

    def silent(self) -> bool:
        return self._queue.empty()
