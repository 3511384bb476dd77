"""The connection to NATS: made once, kept for ever, its streams in place."""

import asyncio

import nats
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from services.common.subjects import streams

log = structlog.get_logger(__name__)


async def connect(url: str, name: str) -> Client:
    """Connects, waiting for NATS as long as it takes; later losses reconnect by themselves."""

    async def on_error(error: Exception) -> None:
        log.warning("nats error", error=str(error) or type(error).__name__)

    async def on_disconnect() -> None:
        log.warning("nats disconnected")

    async def on_reconnect() -> None:
        log.info("nats reconnected")

    while True:
        try:
            return await nats.connect(
                url,
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.5,
                error_cb=on_error,
                disconnected_cb=on_disconnect,
                reconnected_cb=on_reconnect,
            )
        except (TimeoutError, OSError, NatsError) as error:
            log.warning("waiting for nats", error=str(error) or type(error).__name__)
            await asyncio.sleep(1)


async def ensure_streams(connection: Client, replicas: int) -> JetStreamContext:
    """Creates the streams or brings them to their present configuration. Idempotent."""
    jetstream = connection.jetstream()
    for config in streams(replicas):
        try:
            await jetstream.stream_info(config.name or "")
            await jetstream.update_stream(config)
        except NotFoundError:
            await jetstream.add_stream(config)
    return jetstream
