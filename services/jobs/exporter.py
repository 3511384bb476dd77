"""What JetStream and Redis do not tell Prometheus themselves: how much waits, how full they are.

Every replica asks and exports the same, so queries take the largest.
"""

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from nats.aio.client import Client
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo
from nats.js.errors import NotFoundError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.common import subjects
from services.jobs import metrics

log = structlog.get_logger(__name__)

_SECONDS = 5.0
_STREAMS = (
    subjects.JOBS_STREAM,
    subjects.EVENTS_STREAM,
    subjects.DEAD_LETTERS_STREAM,
    subjects.EXHAUSTED_STREAM,
)
_CONSUMERS = (
    (subjects.JOBS_STREAM, subjects.JOBS_CONSUMER),
    (subjects.EVENTS_STREAM, subjects.OUTCOMES_CONSUMER),
    (subjects.EVENTS_STREAM, subjects.ENDED_CONSUMER),
    (subjects.EVENTS_STREAM, subjects.STORAGE_CONSUMER),
    (subjects.EXHAUSTED_STREAM, subjects.EXHAUSTED_CONSUMER),
)


@dataclass(frozen=True)
class Exporter:
    """Keeps the gauges current; where a server does not answer, its gauges have no value."""

    connection: Client
    redis: "Redis"

    async def run(self, stopped: asyncio.Event) -> None:
        """Asks every few seconds until stopped."""
        while not stopped.is_set():
            await self._read_jetstream()
            await self._read_redis()
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), _SECONDS)

    async def _read_jetstream(self) -> None:
        try:
            if not self.connection.is_connected:
                raise ConnectionClosedError
            jetstream = self.connection.jetstream()
            for stream in _STREAMS:
                state = (await jetstream.stream_info(stream)).state
                metrics.STREAM_MESSAGES.labels(stream).set(state.messages)
                metrics.STREAM_BYTES.labels(stream).set(state.bytes)
            for stream, consumer in _CONSUMERS:
                # The storage service may not have made its own yet.
                with suppress(NotFoundError):
                    _export(await jetstream.consumer_info(stream, consumer))
            metrics.OLDEST_WAIT_SECONDS.set(await _oldest_wait_seconds(jetstream))
        except (NatsError, TimeoutError) as error:
            log.warning("jetstream not read", error=str(error) or type(error).__name__)
            for gauge in (
                metrics.STREAM_MESSAGES,
                metrics.STREAM_BYTES,
                metrics.CONSUMER_PENDING,
                metrics.CONSUMER_UNACKNOWLEDGED,
                metrics.CONSUMER_REDELIVERED,
            ):
                gauge.clear()
            metrics.OLDEST_WAIT_SECONDS.set(math.nan)

    async def _read_redis(self) -> None:
        try:
            memory = await self.redis.info("memory")
        except (RedisError, OSError) as error:
            log.warning("redis not read", error=str(error) or type(error).__name__)
            memory = {"used_memory": math.nan, "maxmemory": math.nan}
        metrics.REDIS_USED.set(memory["used_memory"])
        metrics.REDIS_LIMIT.set(memory["maxmemory"])


def _export(info: ConsumerInfo) -> None:
    labels = (info.stream_name, info.name)
    metrics.CONSUMER_PENDING.labels(*labels).set(info.num_pending or 0)
    metrics.CONSUMER_UNACKNOWLEDGED.labels(*labels).set(info.num_ack_pending or 0)
    metrics.CONSUMER_REDELIVERED.labels(*labels).set(info.num_redelivered or 0)


async def _oldest_wait_seconds(jetstream: JetStreamContext) -> float:
    """The age of the first command that no worker has had; 0 where there is none."""
    info = await jetstream.consumer_info(subjects.JOBS_STREAM, subjects.JOBS_CONSUMER)
    if not info.num_pending:
        return 0
    delivered = info.delivered.stream_seq if info.delivered else 0
    try:
        first = await jetstream.get_msg(
            subjects.JOBS_STREAM, seq=delivered + 1, subject=subjects.JOBS_ALL, next=True
        )
    except NotFoundError:
        return 0
    return max(0.0, (datetime.now(UTC) - first.time).total_seconds()) if first.time else 0
