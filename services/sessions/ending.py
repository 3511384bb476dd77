"""The ends of sessions: idle ones expire, and each end becomes one event on the stream.

A session's end and its place in the outbox are one step in Redis; the event is published after it
and then taken off. Every replica does all of this all the time: the script ends a session once, and
JetStream drops the second event with the same id, so a crash at any point only delays an event.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import Header
from unirig.v1 import messages_pb2

from services.common.errors import ApiError
from services.common.subjects import EVENTS_STREAM, SESSION_ENDED
from services.sessions.metrics import EVENTS_PUBLISHED, EVENTS_WAITING, SESSIONS_ENDED
from services.sessions.records import SessionRecords

log = structlog.get_logger(__name__)

_BATCH = 100


class SessionEnding:
    """Ends sessions and announces their ends. interval_seconds: how often it looks for work."""

    def __init__(self, records: SessionRecords, interval_seconds: float) -> None:
        self._records = records
        self._interval = interval_seconds
        self._announcement_due = asyncio.Event()

    async def delete(self, session_id: str) -> None:
        """Ends the session now; the event follows. Idempotent."""
        if await self._records.delete(session_id):
            self._ended(session_id, "deleted")

    async def expire_forever(self) -> None:
        """Ends the sessions whose TTL is over, again and again."""
        while True:
            await _tolerating_outages(self.expire)
            await asyncio.sleep(self._interval)

    async def expire(self) -> None:
        """Ends all the sessions whose TTL is over."""
        while idle := await self._records.idle(_BATCH):
            for session_id in idle:
                if await self._records.expire(session_id):
                    self._ended(session_id, "expired")

    async def announce_forever(self, jetstream: JetStreamContext) -> None:
        """Publishes the ends as they come, and those that a crash or an outage left."""
        while True:
            self._announcement_due.clear()
            await _tolerating_outages(lambda: self.announce(jetstream))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._announcement_due.wait(), self._interval)

    async def announce(self, jetstream: JetStreamContext) -> None:
        """Publishes every end in the outbox and takes it off."""
        while waiting := await self._records.unpublished(_BATCH):
            EVENTS_WAITING.set(len(waiting))
            for session_id in waiting:
                await jetstream.publish(
                    SESSION_ENDED,
                    messages_pb2.SessionEnded(session_id=session_id).SerializeToString(),
                    stream=EVENTS_STREAM,
                    headers={Header.MSG_ID: f"session-ended-{session_id}"},
                )
                await self._records.mark_published(session_id)
                EVENTS_PUBLISHED.inc()
        EVENTS_WAITING.set(0)

    def _ended(self, session_id: str, reason: str) -> None:
        SESSIONS_ENDED.labels(reason).inc()
        log.info("session ended", session_id=session_id, reason=reason)
        self._announcement_due.set()


async def _tolerating_outages(step: Callable[[], Awaitable[None]]) -> None:
    try:
        await step()
    except (ApiError, NatsError, TimeoutError, OSError) as error:
        log.warning("ended sessions wait", error=str(error) or type(error).__name__)
