"""What reaches the service by NATS: claims, progress, outcomes, ended sessions, dead letters."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from unirig.v1 import messages_pb2

from services.common import subjects
from services.common.errors import ApiError
from services.common.tracing import message_span
from services.jobs import queue
from services.jobs.lifecycle import JobLifecycle
from services.jobs.settings import JobsSettings
from services.jobs.store import JobStore

log = structlog.get_logger(__name__)

GAVE_UP = (
    f"The job was given up after {subjects.MAX_DELIVERIES} attempts. "
    "Please try again; if it fails again, try a smaller or simpler model."
)
_QUEUE_GROUP = "jobs"
_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Events:
    """Decodes each message and hands it to the lifecycle."""

    connection: Client
    store: JobStore
    lifecycle: JobLifecycle
    settings: JobsSettings

    async def subscribe(self) -> None:
        """Answers claims and takes progress from now on; one replica gets each."""
        await self.connection.subscribe(subjects.CLAIM, _QUEUE_GROUP, self._on_claim)
        await self.connection.subscribe(subjects.PROGRESS_ALL, _QUEUE_GROUP, self._on_progress)

    async def consume(self, stopped: asyncio.Event) -> None:
        """Handles the durable events until stopped."""
        async with asyncio.TaskGroup() as group:
            for stream, durable, handle in (
                (subjects.EVENTS_STREAM, subjects.OUTCOMES_CONSUMER, self._on_outcome),
                (subjects.EVENTS_STREAM, subjects.ENDED_CONSUMER, self._on_session_ended),
                (subjects.EXHAUSTED_STREAM, subjects.EXHAUSTED_CONSUMER, self._on_exhausted),
            ):
                group.create_task(self._pull(stream, durable, handle, stopped), name=durable)

    async def _on_claim(self, message: Msg) -> None:
        try:
            with message_span(message.subject, message.headers):
                claim = messages_pb2.ClaimJob.FromString(message.data)
                granted = await self.lifecycle.claim(claim)
        except (ApiError, DecodeError) as error:
            # No answer: the worker asks again or hands the job back.
            log.warning("claim not answered", error=str(error))
            return
        decision = messages_pb2.ClaimDecision(granted=granted)
        await self.connection.publish(message.reply, decision.SerializeToString())

    async def _on_progress(self, message: Msg) -> None:
        try:
            await self.lifecycle.progress(messages_pb2.JobProgress.FromString(message.data))
        except (ApiError, DecodeError) as error:
            log.warning("progress dropped", error=str(error))

    async def _on_outcome(self, message: Msg) -> None:
        outcome = messages_pb2.JobOutcome.FromString(message.data)
        await self.lifecycle.outcome(outcome, redelivered=message.metadata.num_delivered > 1)

    async def _on_session_ended(self, message: Msg) -> None:
        event = messages_pb2.SessionEnded.FromString(message.data)
        await self.lifecycle.end_session(event.session_id, self.settings.ended_session_seconds)

    async def _on_exhausted(self, message: Msg) -> None:
        """A command has used up its deliveries: its job fails, unless an outcome is on its way."""
        sequence = int(json.loads(message.data)["stream_seq"])
        jetstream = self.connection.jetstream()
        command = await queue.find_command(jetstream, sequence)
        if command is None:
            return
        await queue.settle_outcomes(jetstream)
        record = await self.store.get(command.job_id)
        if record and record.sequence in (None, sequence):
            await self.lifecycle.give_up(record.job, GAVE_UP)
        await jetstream.delete_msg(subjects.JOBS_STREAM, sequence)

    async def _pull(
        self,
        stream: str,
        durable: str,
        handle: Callable[[Msg], Awaitable[None]],
        stopped: asyncio.Event,
    ) -> None:
        """One message at a time: a larger fetch waits for its last message."""
        subscription = None
        while not stopped.is_set():
            if not self.connection.is_connected:
                await asyncio.sleep(0.1)
                continue
            try:
                if subscription is None:
                    subscription = await self.connection.jetstream().pull_subscribe_bind(
                        durable, stream
                    )
                for message in await subscription.fetch(1, timeout=_RETRY_SECONDS):
                    with message_span(message.subject, message.headers):
                        await self._handle(message, handle)
            except TimeoutError:
                continue
            except NatsError as error:
                log.warning("events interrupted", consumer=durable, error=type(error).__name__)
                await asyncio.sleep(_RETRY_SECONDS)
                await queue.restore_queue(self.connection, self.settings)
        if subscription is not None and self.connection.is_connected:
            # Left open, it would hold up the connection's drain: the client counts it unfinished.
            await subscription.unsubscribe()

    async def _handle(self, message: Msg, handle: Callable[[Msg], Awaitable[None]]) -> None:
        """Acks what was handled, hands back what could not be, drops what nobody understands."""
        try:
            await handle(message)
        except (ApiError, NatsError, TimeoutError, queue.OutcomesUnsettledError) as error:
            log.warning("event handed back", subject=message.subject, error=str(error))
            await message.nak(delay=_RETRY_SECONDS)
        except Exception:
            log.exception("event dropped", subject=message.subject)
            await message.term()
        else:
            await message.ack()
