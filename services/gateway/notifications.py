"""From NATS to the WebSockets of this process: who waits for which session's jobs."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator

import structlog
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from unirig.v1.jobs_pb2 import Job
from unirig.v1.messages_pb2 import JobChanged, SessionEnded

from services.common.broker import connect
from services.common.subjects import NOTIFY_ALL, SESSION_ENDED
from services.common.tracing import message_span
from services.gateway.jobs import is_active

log = structlog.get_logger(__name__)

GOING_AWAY = 1001
_NORMAL_CLOSURE = 1000


class Inbox:
    """What one WebSocket has yet to send: the latest state of each job that changed.

    A slow client so gets fewer progress events, and every terminal one.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Job] = {}
        self._latest: dict[str, Job] = {}
        self._changed = asyncio.Event()
        # WebSocket close code and reason, once there is nothing more to come.
        self.closed: tuple[int, str] | None = None

    def offer(self, job: Job) -> None:
        """Takes a job's state, unless a newer one was offered before."""
        if not self._remember(job):
            return
        self._waiting[job.job_id] = job
        self._changed.set()

    def skip(self, job: Job) -> None:
        """Takes a state for known, so that it is not sent."""
        self._remember(job)

    def close(self, code: int, reason: str) -> None:
        """Ends the inbox once what waits in it is sent."""
        self.closed = self.closed or (code, reason)
        self._changed.set()

    async def take(self) -> Job | None:
        """The next change; None when the inbox is closed and empty."""
        while not self._waiting:
            if self.closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.pop(next(iter(self._waiting)))

    def _remember(self, job: Job) -> bool:
        known = self._latest.get(job.job_id)
        if known is not None and not _supersedes(job, known):
            return False
        self._latest[job.job_id] = job
        return True


def _supersedes(job: Job, known: Job) -> bool:
    """Whether a state is newer: an end is final, attempts and their progress only rise."""
    if not is_active(known):
        return False
    if not is_active(job):
        return True
    order = (job.attempt, job.status, job.progress)
    known_order = (known.attempt, known.status, known.progress)
    return order > known_order or (order == known_order and job.message != known.message)


class Notifications:
    """One NATS connection for all WebSockets of the process; it may come and go."""

    def __init__(self) -> None:
        self._inboxes: defaultdict[str, set[Inbox]] = defaultdict(set)
        self._empty = asyncio.Event()
        self._empty.set()

    async def listen(self, nats_url: str) -> None:
        """Passes changes on until cancelled; waits for NATS as long as it takes."""
        while True:
            connection = await connect(nats_url, "gateway")
            try:
                await connection.subscribe(NOTIFY_ALL, cb=self._on_job_changed)
                await connection.subscribe(SESSION_ENDED, cb=self._on_session_ended)
                log.info("listening for job changes")
                await asyncio.Event().wait()
            except NatsError as error:
                log.warning("not listening for job changes", error=str(error))
            finally:
                await connection.close()
            await asyncio.sleep(1)

    @contextlib.contextmanager
    def inbox(self, session_id: str) -> Iterator[Inbox]:
        """An inbox that gets the session's changes while the context lasts."""
        inbox = Inbox()
        self._inboxes[session_id].add(inbox)
        self._empty.clear()
        try:
            yield inbox
        finally:
            self._inboxes[session_id].discard(inbox)
            if not self._inboxes[session_id]:
                del self._inboxes[session_id]
            if not self._inboxes:
                self._empty.set()

    async def close(self, patience_seconds: float) -> None:
        """Closes every WebSocket as going away, and waits until they are."""
        for inboxes in self._inboxes.values():
            for inbox in inboxes:
                inbox.close(GOING_AWAY, "The server is shutting down")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                await self._empty.wait()

    async def _on_job_changed(self, message: Msg) -> None:
        try:
            job = JobChanged.FromString(message.data).job
        except DecodeError:
            log.warning("unreadable message", subject=message.subject)
            return
        for inbox in self._inboxes.get(job.session_id, ()):
            with message_span("notify", message.headers):
                inbox.offer(job)

    async def _on_session_ended(self, message: Msg) -> None:
        try:
            session_id = SessionEnded.FromString(message.data).session_id
        except DecodeError:
            log.warning("unreadable message", subject=message.subject)
            return
        for inbox in self._inboxes.get(session_id, ()):
            inbox.close(_NORMAL_CLOSURE, "The session has ended")
