"""Every service is replaced while sessions go on working: no accepted job or upload is lost."""

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from nats.errors import TimeoutError as NothingMore
from unirig.v1 import messages_pb2, storage_pb2, storage_pb2_grpc
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from services.common import broker, subjects
from services.common.rpc import open_channel
from tests.job_services import figure_obj
from tests.small_cluster import ROLLED, Cluster, small_cluster

ENDED = ("completed", "failed", "cancelled")
# Longer than a service may be away, seconds.
PATIENCE = 60
BOUNDARY = "part"


class Session:
    """A client that works until it is told to stop, and remembers all that was accepted.

    It does what clients must: it asks again after a 503, and takes the job that is there where the
    answer to a new one is lost.
    """

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=PATIENCE)
        self.token = ""
        # SHA-256 by path.
        self.uploads: dict[str, str] = {}
        self.jobs: list[str] = []
        self.job_completed: Counter[str] = Counter()
        # How often it was answered 503.
        self.refusals = 0

    @property
    def cookie(self) -> str:
        return self.http.cookies["session_id"]

    @property
    def id(self) -> str:
        return self.cookie.partition(".")[0]

    async def open(self) -> None:
        self.token = (await self.ask("GET", "/api/csrf-token")).json()["csrf_token"]
        await self.upload(figure_obj())

    async def ask(
        self,
        method: str,
        path: str,
        body: Callable[[], AsyncIterator[bytes]] | None = None,
        **content: Any,
    ) -> httpx.Response:
        """The answer, however often it must be asked for."""
        headers = {"X-CSRF-Token": self.token}
        if body:
            headers["Content-Type"] = f"multipart/form-data; boundary={BOUNDARY}"
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                answer = await self.http.request(
                    method, path, headers=headers, content=body() if body else None, **content
                )
            except httpx.TransportError:
                await asyncio.sleep(0.2)
                continue
            if answer.status_code != 503:
                return answer
            self.refusals += 1
            await asyncio.sleep(0.2)
        raise AssertionError(f"{path} does not come back")

    async def upload(self, content: bytes, seconds: float = 0) -> None:
        """Uploads at an even pace, so that it takes that long."""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="hero.obj"'
        whole = head.encode() + b"\r\n\r\n" + content + f"\r\n--{BOUNDARY}--\r\n".encode()
        steps = 20

        async def body() -> AsyncIterator[bytes]:
            for step in range(steps):
                yield whole[len(whole) * step // steps : len(whole) * (step + 1) // steps]
                await asyncio.sleep(seconds / steps)

        answer = await self.ask("POST", "/api/upload", body)
        assert answer.status_code == 200, answer.text
        self.uploads[answer.json()["path"]] = hashlib.sha256(content).hexdigest()

    async def create(self) -> str:
        """Starts a job; returns its id."""
        request = {"input_file": next(iter(self.uploads))}
        answer = await self.ask("POST", "/api/jobs/skeleton", json=request)
        if answer.status_code == 409:
            answer = await self.ask("GET", "/api/jobs?limit=1")
            job_id = str(answer.json()["jobs"][0]["job_id"])
        else:
            assert answer.status_code == 200, answer.text
            job_id = str(answer.json()["job_id"])
        self.jobs.append(job_id)
        return job_id

    async def job(self, job_id: str) -> dict[str, Any]:
        answer = await self.ask("GET", f"/api/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def finish(self) -> None:
        """One job, followed by asking."""
        job_id = await self.create()
        while (await self.job(job_id))["status"] not in ENDED:  # noqa: ASYNC110
            await asyncio.sleep(0.2)

    async def keep_asking(self, stopped: asyncio.Event) -> None:
        """Job after job, followed by asking."""
        while not stopped.is_set():
            await self.finish()

    async def keep_listening(self, stopped: asyncio.Event) -> None:
        """Job after job, followed on a WebSocket that is opened anew when the server closes it."""
        url = f"ws{str(self.http.base_url).removeprefix('http')}/ws?session={self.id}"
        cookie = {"Cookie": f"session_id={self.cookie}"}
        job_id = ""
        while job_id or not stopped.is_set():
            try:
                async with connect(url, additional_headers=cookie) as socket:
                    # It may have ended while nobody listened.
                    if job_id and (await self.job(job_id))["status"] in ENDED:
                        job_id = ""
                    while job_id or not stopped.is_set():
                        job_id = job_id or await self.create()
                        event = json.loads(await socket.recv())
                        if event["type"] == "job_completed":
                            self.job_completed[event["job_id"]] += 1
                            job_id = ""
            except (ConnectionClosed, OSError):
                await asyncio.sleep(0.2)

    async def keep_uploading(self, stopped: asyncio.Event) -> None:
        """Upload after upload, so slow that one is under way whatever is replaced."""
        while not stopped.is_set():
            filler = b"# %d\n" % len(self.uploads) * 100_000
            await self.upload(figure_obj() + b"\n" + filler, seconds=2)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with small_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def sessions(cluster: Cluster) -> AsyncIterator[list[Session]]:
    """One that asks, one that listens, one that uploads."""
    sessions = [Session(cluster.url) for _ in range(3)]
    for session in sessions:
        await session.open()
    yield sessions
    for session in sessions:
        await session.http.aclose()


async def one_after_the_other(cluster: Cluster, sessions: list[Session]) -> None:
    for name in ROLLED:
        await cluster.roll(name)
    # Whatever has two pods for a moment is never away: a call is refused, if at all, that meets a
    # server in the moment of its stopping.
    assert max(session.refusals for session in sessions) <= 1
    await cluster.recreate("storage")


async def all_at_once(cluster: Cluster, _: list[Session]) -> None:
    """As `helm upgrade` does it."""
    await asyncio.gather(*map(cluster.roll, ROLLED), cluster.recreate("storage"))


@pytest.mark.parametrize("upgrade", [one_after_the_other, all_at_once])
async def test_an_upgrade_loses_no_accepted_job_and_no_accepted_upload(
    cluster: Cluster,
    sessions: list[Session],
    upgrade: Callable[[Cluster, list[Session]], Awaitable[None]],
) -> None:
    asking, listening, uploading = sessions
    before = dict(cluster.running)
    stopped = asyncio.Event()
    async with asyncio.TaskGroup() as working:
        working.create_task(asking.keep_asking(stopped))
        working.create_task(listening.keep_listening(stopped))
        working.create_task(uploading.keep_uploading(stopped))
        await asyncio.sleep(1)
        await upgrade(cluster, sessions)
        stopped.set()
    assert all(pod.pid != before[name].pid for name, pod in cluster.running.items())
    # And what is new works.
    await uploading.finish()

    outcomes = await outcomes_of(cluster)
    for session in sessions:
        listed = (await session.ask("GET", "/api/jobs?limit=200")).json()["jobs"]
        assert sorted(job["job_id"] for job in listed) == sorted(session.jobs)
        assert {job["status"] for job in listed} == {"completed"}
        # Each ran once, to its end.
        for job_id in session.jobs:
            [outcome] = outcomes.pop(job_id)
            assert (outcome.attempt, outcome.WhichOneof("outcome")) == (1, "succeeded")
        await check_files(cluster, session)
    assert outcomes == {}
    assert len(uploading.uploads) > 2
    assert set(listening.job_completed.values()) <= {1}


async def outcomes_of(cluster: Cluster) -> dict[str, list[messages_pb2.JobOutcome]]:
    """All that workers have reported, by job."""
    connection = await broker.connect(cluster.nats.url, "test")
    subscription = await connection.jetstream().pull_subscribe(
        subjects.JOB_OUTCOME, durable="test", stream=subjects.EVENTS_STREAM
    )
    found: dict[str, list[messages_pb2.JobOutcome]] = {}
    try:
        while True:
            [message] = await subscription.fetch(1, timeout=1)
            outcome = messages_pb2.JobOutcome.FromString(message.data)
            found.setdefault(outcome.job_id, []).append(outcome)
            await message.ack()
    except NothingMore:
        return found
    finally:
        await connection.close()


async def check_files(cluster: Cluster, session: Session) -> None:
    """Every upload is as it was sent, and every result is there, once, and can be downloaded."""
    storage = cluster.running["storage"]
    address = f"{storage.address}:{storage.environment['GRPC_PORT']}"
    async with open_channel(address, "unirig.v1.StorageService", []) as channel:
        stub = storage_pb2_grpc.StorageServiceStub(channel)

        async def sha256_of(path: str) -> str:
            request = storage_pb2.StatFileRequest(session_id=session.id, path=path)
            return str((await stub.StatFile(request, timeout=10)).file.etag)

        for path, sha256 in session.uploads.items():
            assert await sha256_of(path) == sha256
        results = 0
        for job_id in session.jobs:
            for artifact in (await session.job(job_id))["artifacts"]:
                path = artifact["path"]
                answer = await session.ask("GET", path)
                assert answer.status_code == 200, answer.text
                assert hashlib.sha256(answer.content).hexdigest() == await sha256_of(path)
                results += 1
        usage = await stub.GetUsage(storage_pb2.GetUsageRequest(session_id=session.id), timeout=10)
        assert usage.results == results
