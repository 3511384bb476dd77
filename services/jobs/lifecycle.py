"""What can happen to a job. Each method makes one transition in Redis and tells who must know."""

import uuid

import structlog
from unirig.v1 import jobs_pb2, messages_pb2

from services.common import subjects
from services.common.errors import ApiError, ErrorCode
from services.common.paths import parse_path
from services.jobs import metrics
from services.jobs.notices import Notices
from services.jobs.outbox import Outbox
from services.jobs.outbox_message import OutboxMessage
from services.jobs.record import (
    ACTIVE_STATUSES,
    STATUS_NAMES,
    TYPE_NAMES,
    Record,
    command_of,
)
from services.jobs.store import Change, JobStore

log = structlog.get_logger(__name__)

HANDED_BACK = "Waiting for another worker"


class JobLifecycle:
    def __init__(self, store: JobStore, outbox: Outbox, notices: Notices) -> None:
        self._store = store
        self._outbox = outbox
        self._notices = notices

    async def create(
        self, session_id: str, spec: jobs_pb2.JobSpec, request_id: str
    ) -> jobs_pb2.Job:
        """Raises ApiError CONCURRENT_JOB_LIMIT or SESSION_NOT_FOUND."""
        job_id = str(uuid.uuid4())
        new = jobs_pb2.Job(job_id=job_id, session_id=session_id, spec=spec)
        message = command_message(new, job_id, request_id)
        job = await self._store.create(job_id, session_id, spec, message)
        metrics.TRANSITIONS.labels(TYPE_NAMES[spec.type], _engine(job), "pending").inc()
        log.info("job created", job_id=job_id, session_id=session_id, type=TYPE_NAMES[spec.type])
        await self._outbox.publish(message)
        return job

    async def claim(self, claim: messages_pb2.ClaimJob) -> bool:
        """Whether the attempt may run. Deliveries count from 1: 0 stands for none."""
        if claim.attempt < 1:
            return False
        change = await self._store.claim(
            claim.job_id, claim.attempt, claim.engine, claim.engine_version
        )
        log.info(
            "job claimed",
            job_id=claim.job_id,
            session_id=change.record.job.session_id if change.record else None,
            attempt=claim.attempt,
            verdict=change.verdict,
        )
        if change.verdict == "refused" or change.record is None:
            return False
        job = change.record.job
        type_name = TYPE_NAMES[job.spec.type]
        if change.verdict == "started":
            metrics.TRANSITIONS.labels(type_name, _engine(job), "running").inc()
            metrics.QUEUE_SECONDS.labels(type_name).observe(_seconds_to_start(job))
        if change.verdict != "running":
            if claim.attempt > 1:
                metrics.REDELIVERIES.labels(type_name).inc()
            await self._notices.changed(job)
        return True

    async def progress(self, report: messages_pb2.JobProgress) -> None:
        percent = max(0, min(99, report.progress))
        change = await self._store.progress(report.job_id, report.attempt, percent, report.message)
        if change.verdict == "changed" and change.record:
            await self._notices.changed(change.record.job)
        elif change.verdict == "refused" and not _is_active(change.record):
            # The broadcast that stops it did not arrive.
            await self._notices.cancel(report.job_id)

    async def outcome(self, outcome: messages_pb2.JobOutcome, redelivered: bool) -> None:
        """Applies how an attempt ended, unless it is superseded or the job has ended.

        redelivered: this may have been applied before, its notice lost.
        """
        if outcome.attempt < 1:
            log.error("outcome of no attempt", job_id=outcome.job_id)
            return
        status = jobs_pb2.JOB_STATUS_FAILED
        fields: dict[str, str | bytes | int]
        match outcome.WhichOneof("outcome"):
            case "succeeded":
                status = jobs_pb2.JOB_STATUS_COMPLETED
                fields = {"result": outcome.succeeded.SerializeToString(), "progress": 100}
            case "failed":
                fields = {
                    "error": outcome.failed.error or "The job failed.",
                    "error_code": outcome.failed.error_code or ErrorCode.PROCESSING_FAILED,
                }
            case "handed_back":
                await self._hand_back(outcome)
                return
            case _:
                log.error("outcome says nothing", job_id=outcome.job_id)
                return
        change = await self._store.finish(outcome.job_id, status, fields, attempt=outcome.attempt)
        if change.verdict == "finished":
            await self._ended(change)
            return
        job = change.record.job if change.record else None
        if redelivered and job and job.status == status and job.attempt == outcome.attempt:
            await self._notices.changed(job)
            return
        metrics.REFUSED_OUTCOMES.labels(change.verdict).inc()
        log.warning(
            "outcome refused", job_id=outcome.job_id, attempt=outcome.attempt, why=change.verdict
        )
        if status == jobs_pb2.JOB_STATUS_COMPLETED:
            await self._drop_unwanted_results(outcome, job)

    async def cancel(self, session_id: str, job_id: str) -> jobs_pb2.Job:
        """Raises ApiError JOB_NOT_FOUND or JOB_NOT_CANCELLABLE."""
        change = await self._store.finish(
            job_id, jobs_pb2.JOB_STATUS_CANCELLED, {}, session_id=session_id
        )
        if change.record is None:
            raise job_not_found()
        job = change.record.job
        if change.verdict == "final":
            raise ApiError(
                ErrorCode.JOB_NOT_CANCELLABLE,
                f"Cannot cancel job: Job already {STATUS_NAMES[job.status]}",
            )
        await self._notices.cancel(job_id)
        await self._ended(change)
        return job

    async def delete(self, session_id: str, job_id: str) -> None:
        """Cancels the job if it is active, then forgets it. Raises ApiError JOB_NOT_FOUND."""
        message = _deletion(session_id, job_id, f"deleted:{job_id}")
        verdict = await self._store.delete(job_id, session_id, message)
        if verdict == "active":
            try:
                await self.cancel(session_id, job_id)
            except ApiError as error:
                if error.code is not ErrorCode.JOB_NOT_CANCELLABLE:
                    raise
            verdict = await self._store.delete(job_id, session_id, message)
        if verdict == "missing":
            raise job_not_found()
        log.info("job deleted", job_id=job_id, session_id=session_id)
        await self._outbox.publish(message)

    async def give_up(self, job: jobs_pb2.Job, error: str) -> None:
        """Fails a job whose attempts are used up, if it still is as it was seen, and keeps its
        command as a dead letter."""
        change = await self._store.finish(
            job.job_id,
            jobs_pb2.JOB_STATUS_FAILED,
            {"error": error, "error_code": ErrorCode.PROCESSING_FAILED},
            attempt=job.attempt,
            message=OutboxMessage(f"dead:{job.job_id}", subjects.dead(job.job_id), command_of(job)),
        )
        if change.verdict != "finished":
            return
        metrics.DEAD_LETTERS.labels(TYPE_NAMES[job.spec.type]).inc()
        await self._notices.cancel(job.job_id)
        await self._ended(change)

    async def end_session(self, session_id: str, remember_seconds: int) -> None:
        """Cancels what the session has running and forgets all its jobs."""
        while active := await self._store.forget(session_id, remember_seconds):
            try:
                await self.cancel(session_id, active)
            except ApiError as error:
                if error.code is not ErrorCode.JOB_NOT_CANCELLABLE:
                    raise
        log.info("session forgotten", session_id=session_id)

    async def _hand_back(self, outcome: messages_pb2.JobOutcome) -> None:
        """Queues a job anew whose worker had to stop: none of its deliveries is used up by that."""
        record = await self._store.get(outcome.job_id)
        if record is None:
            return
        # It may be one that was never claimed.
        record.job.attempt = outcome.attempt
        message = command_message(record.job, f"{outcome.job_id}:after-{outcome.attempt}")
        change = await self._store.hand_back(outcome.job_id, outcome.attempt, HANDED_BACK, message)
        log.info(
            "job handed back",
            job_id=outcome.job_id,
            attempt=outcome.attempt,
            verdict=change.verdict,
        )
        if change.verdict == "queued" and change.record:
            metrics.HANDED_BACK.labels(TYPE_NAMES[change.record.job.spec.type]).inc()
            await self._notices.changed(change.record.job)
            await self._outbox.publish(message)

    async def _ended(self, change: Change) -> None:
        assert change.record is not None  # noqa: S101 - a finished job has a record
        job = change.record.job
        type_name, status = TYPE_NAMES[job.spec.type], STATUS_NAMES[job.status]
        metrics.TRANSITIONS.labels(type_name, _engine(job), status).inc()
        if job.status == jobs_pb2.JOB_STATUS_FAILED:
            # A worker's word: what is no code of ours makes no series of its own.
            known = job.error_code in ErrorCode.__members__
            metrics.FAILURES.labels(type_name, job.error_code if known else "other").inc()
        if job.HasField("started_at"):
            seconds = (job.completed_at.ToMicroseconds() - job.started_at.ToMicroseconds()) / 1e6
            metrics.RUN_SECONDS.labels(type_name, _engine(job), status).observe(seconds)
        log.info(
            "job ended",
            job_id=job.job_id,
            session_id=job.session_id,
            status=status,
            error_code=job.error_code,
        )
        await self._notices.changed(job)

    async def _drop_unwanted_results(
        self, outcome: messages_pb2.JobOutcome, job: jobs_pb2.Job | None
    ) -> None:
        """A job that was cancelled, given up or deleted keeps no results that came too late."""
        path = parse_path(outcome.succeeded.output_file)
        if path is None or (
            job and (job.status in ACTIVE_STATUSES or job.status == jobs_pb2.JOB_STATUS_COMPLETED)
        ):
            return
        message_id = f"deleted:{outcome.job_id}:{outcome.attempt}"
        message = _deletion(path.session_id, outcome.job_id, message_id)
        await self._store.enqueue(message)
        await self._outbox.publish(message)


def command_message(job: jobs_pb2.Job, message_id: str, request_id: str = "") -> OutboxMessage:
    """The job's command on its way to the workers."""
    return OutboxMessage(
        id=message_id,
        subject=subjects.run(TYPE_NAMES[job.spec.type]),
        payload=command_of(job),
        job_id=job.job_id,
        request_id=request_id,
    )


def job_not_found() -> ApiError:
    return ApiError(ErrorCode.JOB_NOT_FOUND, "Job not found")


def _deletion(session_id: str, job_id: str, message_id: str) -> OutboxMessage:
    event = messages_pb2.JobDeleted(session_id=session_id, job_id=job_id)
    return OutboxMessage(message_id, subjects.JOB_DELETED, event.SerializeToString())


def _engine(job: jobs_pb2.Job) -> str:
    """The label for who rigs it."""
    return job.engine or "none"


def _is_active(record: Record | None) -> bool:
    return record is not None and record.job.status in ACTIVE_STATUSES


def _seconds_to_start(job: jobs_pb2.Job) -> float:
    return (job.started_at.ToMicroseconds() - job.created_at.ToMicroseconds()) / 1e6
