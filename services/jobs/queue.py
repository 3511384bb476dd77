"""The JetStream consumers of the jobs service, and what it asks JetStream about a command."""

import asyncio
from datetime import timedelta

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError
from unirig.v1 import messages_pb2

from services.common import subjects
from services.common.broker import ensure_streams
from services.jobs.settings import JobsSettings

log = structlog.get_logger(__name__)

_SETTLE_SECONDS = 10.0
# A replica that dies may hold an event for this long.
_EVENT_ACK_WAIT = timedelta(seconds=5).total_seconds()
# An exhausted command's handling waits for outcomes.
_EXHAUSTED_ACK_WAIT = 3 * _SETTLE_SECONDS


class OutcomesUnsettledError(Exception):
    """Outcomes that are on their way have not been applied in time."""


async def ensure_queue(connection: Client, settings: JobsSettings) -> None:
    """The streams and consumers as they should be. Idempotent."""
    jetstream = await ensure_streams(connection, settings.nats_replicas)
    await jetstream.add_consumer(
        subjects.JOBS_STREAM,
        ConsumerConfig(
            durable_name=subjects.JOBS_CONSUMER,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=settings.ack_wait_seconds,
            max_deliver=subjects.MAX_DELIVERIES,
            max_ack_pending=settings.max_ack_pending,
        ),
    )
    for stream, name, subject, ack_wait in (
        (subjects.EVENTS_STREAM, subjects.OUTCOMES_CONSUMER, subjects.JOB_OUTCOME, _EVENT_ACK_WAIT),
        (subjects.EVENTS_STREAM, subjects.ENDED_CONSUMER, subjects.SESSION_ENDED, _EVENT_ACK_WAIT),
        (
            subjects.EXHAUSTED_STREAM,
            subjects.EXHAUSTED_CONSUMER,
            subjects.EXHAUSTED,
            _EXHAUSTED_ACK_WAIT,
        ),
    ):
        config = ConsumerConfig(
            durable_name=name,
            ack_policy=AckPolicy.EXPLICIT,
            filter_subject=subject,
            ack_wait=ack_wait,
        )
        await jetstream.add_consumer(stream, config)


async def restore_queue(connection: Client, settings: JobsSettings) -> None:
    """Brings back what JetStream may have lost, if that can be done now."""
    try:
        await ensure_queue(connection, settings)
    except (NatsError, TimeoutError) as error:
        log.warning("queue not restored", error=type(error).__name__)


async def find_command(jetstream: JetStreamContext, sequence: int) -> messages_pb2.RunJob | None:
    """The command at that place of the JOBS stream; None where it is gone."""
    try:
        message = await jetstream.get_msg(subjects.JOBS_STREAM, sequence)
    except NotFoundError:
        return None
    return messages_pb2.RunJob.FromString(message.data or b"")


async def will_be_delivered(jetstream: JetStreamContext, sequence: int) -> bool:
    """Whether the command, which is in the stream, may be with a worker or go to one.

    JetStream leaves a message that has used up its deliveries in the stream, neither waiting nor
    with anybody. While other messages are with workers this can't be told apart from being with
    one, and the answer is True.
    """
    info = await jetstream.consumer_info(subjects.JOBS_STREAM, subjects.JOBS_CONSUMER)
    delivered = info.delivered.stream_seq if info.delivered else 0
    return sequence > delivered or bool(info.num_ack_pending)


async def settle_outcomes(jetstream: JetStreamContext) -> None:
    """Waits until every outcome that is on the stream now has been applied.

    Raises OutcomesUnsettledError where that takes too long.
    """
    newest = (await jetstream.stream_info(subjects.EVENTS_STREAM)).state.last_seq
    deadline = asyncio.get_running_loop().time() + _SETTLE_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        info = await jetstream.consumer_info(subjects.EVENTS_STREAM, subjects.OUTCOMES_CONSUMER)
        if not info.num_pending and not info.num_ack_pending:
            return
        if info.ack_floor and info.ack_floor.stream_seq >= newest:
            return
        await asyncio.sleep(0.1)
    raise OutcomesUnsettledError
