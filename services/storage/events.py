"""Durable events that end files: a session's end, a job's deletion.

All replicas share one consumer. An event is acknowledged only after its files are gone; after a
crash or a failure it comes again, and deleting again does no harm.
"""

import asyncio

import structlog
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NothingCame
from nats.js.api import AckPolicy, ConsumerConfig
from unirig.v1 import messages_pb2

from services.common.broker import connect, ensure_streams
from services.common.errors import ApiError
from services.common.paths import is_session_id
from services.common.subjects import EVENTS_STREAM, JOB_DELETED, SESSION_ENDED, STORAGE_CONSUMER
from services.common.tracing import message_span
from services.storage.back_end import BackEnd, Freed
from services.storage.metrics import EVENTS_APPLIED, FILES_DELETED

log = structlog.get_logger(__name__)

# Longer than the deletion of a session with very many files, seconds.
_ACK_WAIT = 120
# A request that NATS forgets in a restart is made again after this long.
_FETCH_SECONDS = 5
_RETRY_SECONDS = 1
_LONGEST_DELAY = 60


async def apply_events(nats_url: str, nats_replicas: int, back_end: BackEnd) -> None:
    """Deletes what events say, until cancelled. NATS may come late, go and come back."""
    connection = await connect(nats_url, "storage")
    try:
        while True:
            try:
                await _consume(connection, nats_replicas, back_end)
            except (NatsError, TimeoutError) as error:
                log.warning("events are late", error=str(error) or type(error).__name__)
                await asyncio.sleep(_RETRY_SECONDS)
    finally:
        await connection.close()


async def _consume(connection: Client, nats_replicas: int, back_end: BackEnd) -> None:
    jetstream = await ensure_streams(connection, nats_replicas)
    subscription = await jetstream.pull_subscribe(
        "",
        durable=STORAGE_CONSUMER,
        stream=EVENTS_STREAM,
        config=ConsumerConfig(
            filter_subjects=[SESSION_ENDED, JOB_DELETED],
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT,
        ),
    )
    while True:
        try:
            messages = await subscription.fetch(1, timeout=_FETCH_SECONDS)
        except NothingCame:
            continue
        for message in messages:
            with message_span(message.subject, message.headers):
                await _apply(message, back_end)


async def _apply(message: Msg, back_end: BackEnd) -> None:
    structlog.contextvars.clear_contextvars()
    try:
        freed = await _delete(message, back_end)
    except (DecodeError, ValueError):
        log.error("an event cannot be read", subject=message.subject)
        EVENTS_APPLIED.labels("unreadable").inc()
        await message.term()
    except (ApiError, OSError) as error:
        log.warning("an event will be tried again", subject=message.subject, error=str(error))
        EVENTS_APPLIED.labels("retried").inc()
        await message.nak(min(2.0**message.metadata.num_delivered, _LONGEST_DELAY))
    else:
        log.info("deleted", subject=message.subject, files=freed.files, bytes=freed.size)
        FILES_DELETED.inc(freed.files)
        EVENTS_APPLIED.labels("applied").inc()
        await message.ack()


async def _delete(message: Msg, back_end: BackEnd) -> Freed:
    if message.subject == SESSION_ENDED:
        ended = messages_pb2.SessionEnded.FromString(message.data)
        structlog.contextvars.bind_contextvars(session_id=_checked(ended.session_id))
        return await back_end.delete_session(ended.session_id)
    deleted = messages_pb2.JobDeleted.FromString(message.data)
    structlog.contextvars.bind_contextvars(
        session_id=_checked(deleted.session_id), job_id=deleted.job_id
    )
    return await back_end.delete_job(deleted.session_id, deleted.job_id)


def _checked(session_id: str) -> str:
    if not is_session_id(session_id):
        raise ValueError("not a session id")
    return session_id
