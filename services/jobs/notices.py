"""What the jobs service tells the others at once, without keeping it."""

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from unirig.v1 import jobs_pb2, messages_pb2

from services.common import subjects
from services.common.tracing import trace_headers

log = structlog.get_logger(__name__)


class Notices:
    """Broadcasts on NATS; while it is down they wait in the client's buffer or are lost."""

    def __init__(self, connection: Client) -> None:
        self._connection = connection

    async def changed(self, job: jobs_pb2.Job) -> None:
        """For the session's WebSockets."""
        notice = messages_pb2.JobChanged(job=job)
        await self._publish(subjects.notify(job.session_id), notice.SerializeToString())

    async def cancel(self, job_id: str) -> None:
        """For the worker that runs it, if one does."""
        order = messages_pb2.CancelRunningJob(job_id=job_id)
        await self._publish(subjects.cancel(job_id), order.SerializeToString())

    async def _publish(self, subject: str, payload: bytes) -> None:
        try:
            await self._connection.publish(subject, payload, headers=trace_headers() or None)
        except NatsError as error:
            log.warning("broadcast lost", subject=subject, error=type(error).__name__)
