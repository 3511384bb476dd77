"""The outbox: what must reach JetStream stays in Redis until JetStream has it."""

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.common.errors import ApiError
from services.common.rpc import REQUEST_ID
from services.jobs.metrics import OUTBOX
from services.jobs.outbox_message import OutboxMessage
from services.jobs.store import JobStore

log = structlog.get_logger(__name__)

_BATCH = 100
_PUBLISH_SECONDS = 1.0


class Outbox:
    """Publishes at least once; JetStream drops doubles by Nats-Msg-Id."""

    def __init__(self, store: JobStore, connection: Client) -> None:
        self._store = store
        self._connection = connection

    async def publish(self, message: OutboxMessage) -> bool:
        """Whether JetStream has it for certain; if not, it stays for the next sweep."""
        if not self._connection.is_connected:
            return False
        headers = {"Nats-Msg-Id": message.id, **message.trace}
        if message.request_id:
            headers[REQUEST_ID] = message.request_id
        try:
            ack = await self._connection.jetstream().publish(
                message.subject, message.payload, timeout=_PUBLISH_SECONDS, headers=headers
            )
        except (TimeoutError, NatsError) as error:
            log.warning("publish failed", message_id=message.id, error=type(error).__name__)
            return False
        try:
            await self._store.published(message, ack.seq)
        except ApiError:
            return False
        return True

    async def sweep(self) -> bool:
        """Publishes what a crash or a lost NATS left, oldest first; whether nothing is left."""
        while True:
            messages, total = await self._store.waiting(_BATCH)
            OUTBOX.set(total)
            for message in messages:
                if not await self.publish(message):
                    return False
            if len(messages) < _BATCH:
                return True
