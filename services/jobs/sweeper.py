"""Finishes what crashes left: unpublished messages and jobs that nobody works on any more."""

import asyncio
from dataclasses import dataclass

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.common import subjects
from services.common.errors import ApiError
from services.jobs import queue
from services.jobs.events import GAVE_UP
from services.jobs.lifecycle import JobLifecycle, command_message
from services.jobs.metrics import ACTIVE
from services.jobs.outbox import Outbox
from services.jobs.record import Record
from services.jobs.settings import JobsSettings
from services.jobs.store import JobStore

log = structlog.get_logger(__name__)

LOST = "The job was lost by the queue. Please try again."
_BATCH = 100


@dataclass(frozen=True)
class Sweeper:
    """Runs in every replica; each finding is settled by a script that looks again."""

    connection: Client
    store: JobStore
    outbox: Outbox
    lifecycle: JobLifecycle
    settings: JobsSettings

    async def run(self, stopped: asyncio.Event) -> None:
        """Sweeps until stopped."""
        while not stopped.is_set():
            if self.connection.is_connected:
                await self._sweep()
            try:
                await asyncio.wait_for(stopped.wait(), self.settings.sweep_seconds)
            except TimeoutError:
                continue

    async def _sweep(self) -> None:
        try:
            if not await self.outbox.sweep():
                await queue.restore_queue(self.connection, self.settings)
            await self._examine_suspects()
        except (ApiError, queue.OutcomesUnsettledError) as error:
            log.warning("sweep interrupted", error=str(error) or type(error).__name__)
        except (NatsError, TimeoutError) as error:
            log.warning("sweep interrupted", error=type(error).__name__)
            await queue.restore_queue(self.connection, self.settings)
        except Exception:
            log.exception("sweep failed")

    async def _examine_suspects(self) -> None:
        """Looks what became of the active jobs that have been silent too long."""
        suspects, active = await self.store.suspects(_BATCH)
        ACTIVE.set(active)
        for job_id in suspects:
            record = await self.store.get(job_id)
            # Without a sequence its command is still in the outbox.
            if record is not None and record.sequence is not None:
                await self._examine(record, record.sequence)

    async def _examine(self, record: Record, sequence: int) -> None:
        """A silent job whose command waits or is with a worker is left alone, but for the last
        attempt: JetStream gives it up only once a worker asks for more, and none may be left.

        A job at work may be silent because this service or Redis was away: it gets another chance.
        """
        jetstream = self.connection.jetstream()
        job = record.job
        if not record.waits and record.suspicions < 2:
            return
        command = await queue.find_command(jetstream, sequence)
        if command is not None and command.job_id == job.job_id:
            if not record.on_last_attempt and await queue.will_be_delivered(jetstream, sequence):
                return
            await queue.settle_outcomes(jetstream)
            await self.lifecycle.give_up(job, GAVE_UP)
            await jetstream.delete_msg(subjects.JOBS_STREAM, sequence)
        elif record.waits:
            message = command_message(job, f"{job.job_id}:{sequence}")
            if await self.store.redispatch(job.job_id, sequence, message):
                log.warning("job dispatched again", job_id=job.job_id)
                await self.outbox.publish(message)
        else:
            await queue.settle_outcomes(jetstream)
            await self.lifecycle.give_up(job, LOST)
