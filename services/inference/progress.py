"""How far a job is: from a step's own fraction to what the user sees."""

import asyncio
import contextlib
from collections.abc import Callable

from nats.aio.client import Client
from nats.errors import Error as NatsError
from unirig.v1 import messages_pb2

from services.common import subjects

StepProgress = Callable[[float, str], None]

_MIN_SECONDS = 0.2
_HEARTBEAT_SECONDS = 5.0


class Progress:
    """The progress of one attempt: 0 to 99 percent, never falling, and what is being done."""

    def __init__(self) -> None:
        self.percent = 0
        self.message = "Starting"
        self._changed = asyncio.Event()

    def span(self, start: float, end: float, message: str) -> StepProgress:
        """A step's share: its fraction 0..1 becomes start..end percent. The step's own message,
        where it has one, takes the place of the given one."""
        self._report(start, message)

        def report(fraction: float, own_message: str) -> None:
            self._report(start + (end - start) * fraction, own_message or message)

        return report

    def _report(self, percent: float, message: str) -> None:
        whole = max(self.percent, min(int(percent), 99))
        if (whole, message) != (self.percent, self.message):
            self.percent, self.message = whole, message
            self._changed.set()

    async def publish(self, connection: Client, job_id: str, attempt: int) -> None:
        """Publishes every change, at most 5 a second, and a heartbeat where nothing changes, until
        cancelled."""
        while True:
            self._changed.clear()
            report = messages_pb2.JobProgress(
                job_id=job_id, attempt=attempt, progress=self.percent, message=self.message
            )
            # Lost progress is no loss: the next one comes soon.
            with contextlib.suppress(NatsError):
                await connection.publish(subjects.progress(job_id), report.SerializeToString())
            await asyncio.sleep(_MIN_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEARTBEAT_SECONDS - _MIN_SECONDS):
                    await self._changed.wait()
