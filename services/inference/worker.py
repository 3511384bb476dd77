"""The pull loop: takes jobs from JetStream, runs each as one attempt, and reports how it ended.

An attempt is claimed first (its number, from the delivery count, is the fencing token), kept alive
with in_progress while it works, and acknowledged only once its outcome is on the EVENTS stream. A
worker that dies in between is no loss: JetStream delivers the job again after its ack_wait. One
that is told to stop hands its jobs back, and the jobs service queues them anew.
"""

import asyncio
import contextlib
import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from prometheus_client import Counter, Gauge
from unirig.v1 import jobs_pb2, messages_pb2

from services.common import subjects
from services.common.errors import ApiError, ErrorCode
from services.common.rpc import REQUEST_ID
from services.common.tracing import mark_failed, message_span, trace_headers
from services.inference.engine import Engine
from services.inference.limited_process import StepError
from services.inference.progress import Progress
from services.inference.scratch import Scratch
from services.inference.settings import InferenceSettings
from services.inference.stages import make_results, save_results
from services.inference.storage_client import StorageClient, is_transient
from services.inference.triton_client import ModelServerError
from services.inference.workplace import Workplace

log = structlog.get_logger(__name__)

JOBS_ENDED = Counter(
    "unirig_worker_attempts_total",
    "Attempts at jobs that ended here, by type and how: succeeded, failed, cancelled, retried, "
    "handed_back, refused.",
    ["type", "ending"],
)
BUSY = Gauge("unirig_worker_busy", "Jobs that this worker runs now.")
SLOTS = Gauge("unirig_worker_slots", "Jobs that this worker runs at most at a time.", ["engine"])

_FETCH_SECONDS = 2.0
_CLAIM_SECONDS = 5.0
# NATS takes a hand-back within this, or finds out by itself that the worker is gone.
_HAND_BACK_SECONDS = 5.0
_BUG_TEXT = "Something went wrong on our side while the model was processed."
_NO_MODEL_SERVER_TEXT = "The model server does not answer. Please start the job again later."
_NO_RESOURCES_TEXT = "The service has no resources left to process the model. Try again later."


class _Verdict(enum.StrEnum):
    """How an attempt ends that has no outcome."""

    REFUSED = "refused"
    RETRY = "retried"


@dataclass(frozen=True)
class _Delivery:
    """One delivery of a job by JetStream."""

    message: Msg
    run: messages_pb2.RunJob
    attempt: int
    is_last: bool

    @property
    def type_name(self) -> str:
        return jobs_pb2.JobType.Name(self.run.spec.type).removeprefix("JOB_TYPE_").lower()

    def handed_back(self) -> messages_pb2.JobOutcome:
        return messages_pb2.JobOutcome(
            job_id=self.run.job_id,
            attempt=self.attempt,
            handed_back=messages_pb2.JobHandedBack(),
        )

    def failed(self, error: str, code: str) -> messages_pb2.JobOutcome:
        return messages_pb2.JobOutcome(
            job_id=self.run.job_id,
            attempt=self.attempt,
            failed=messages_pb2.JobFailed(error=error, error_code=code),
        )


@dataclass(frozen=True)
class _Consumer:
    """The workers' durable consumer, with what the jobs service set for it."""

    pull: JetStreamContext.PullSubscription
    ack_wait_seconds: float
    # -1: without end.
    max_deliveries: int


class Worker:
    """Runs jobs until told to stop."""

    def __init__(
        self,
        connection: Client,
        storage: StorageClient,
        scratch: Scratch,
        engine: Engine,
        settings: InferenceSettings,
    ) -> None:
        self._connection = connection
        self._jetstream = connection.jetstream()
        self._storage = storage
        self._scratch = scratch
        self._settings = settings
        self._engine = engine
        SLOTS.labels(engine.name).set(settings.concurrency)
        # By job id and attempt number: what a cancel broadcast may stop.
        self._attempts: dict[tuple[str, int], asyncio.Task[messages_pb2.JobOutcome | _Verdict]] = {}

    async def run(self, stopped: asyncio.Event) -> None:
        """Pulls and runs jobs until stopped is set; jobs that run then may end within the
        grace period, and go back to the queue if they do not."""
        await self._connection.subscribe(subjects.CANCEL_ALL, cb=self._on_cancel)
        async with asyncio.TaskGroup() as group:
            loops = [
                group.create_task(self._pull(stopped)) for _ in range(self._settings.concurrency)
            ]
            await stopped.wait()
            log.info("draining", running=len(self._attempts))
            _, late = await asyncio.wait(loops, timeout=self._settings.shutdown_grace_seconds)
            for loop in late:
                loop.cancel()

    async def _on_cancel(self, message: Msg) -> None:
        job_id = messages_pb2.CancelRunningJob.FromString(message.data).job_id
        for (running_id, _), attempt in self._attempts.items():
            if running_id == job_id:
                attempt.cancel()

    async def _pull(self, stopped: asyncio.Event) -> None:
        consumer = None
        while not stopped.is_set():
            try:
                consumer = consumer or await self._consumer()
                [message] = await consumer.pull.fetch(1, timeout=_FETCH_SECONDS)
            except TimeoutError:
                # Comes at once where NATS has no such consumer just now.
                await asyncio.sleep(0.1)
                continue
            except NotFoundError:
                log.info("waiting for the jobs service to make its queue")
                await asyncio.sleep(1)
                continue
            except NatsError as error:
                log.warning("cannot fetch jobs", error=str(error) or type(error).__name__)
                consumer = None
                await asyncio.sleep(1)
                continue
            try:
                await self._deliver(message, consumer)
            except (NatsError, TimeoutError) as error:
                # What NATS did not hear it takes for undone, and delivers again.
                log.warning("cannot settle a job", error=str(error) or type(error).__name__)

    async def _consumer(self) -> _Consumer:
        info = await self._jetstream.consumer_info(subjects.JOBS_STREAM, subjects.JOBS_CONSUMER)
        pull = await self._jetstream.pull_subscribe_bind(
            subjects.JOBS_CONSUMER, subjects.JOBS_STREAM
        )
        ack_wait = info.config.ack_wait or subjects.ACK_WAIT.total_seconds()
        return _Consumer(pull, ack_wait, info.config.max_deliver or -1)

    async def _deliver(self, message: Msg, consumer: _Consumer) -> None:
        try:
            run = messages_pb2.RunJob.FromString(message.data)
        except DecodeError:
            log.error("a message that is not a job", subject=message.subject)
            await message.term()
            return
        deliveries = message.metadata.num_delivered
        attempt = run.attempts_before + deliveries
        is_last = 0 < consumer.max_deliveries <= deliveries
        delivery = _Delivery(message, run, attempt, is_last)
        context = {"job_id": run.job_id, "session_id": run.session_id, "attempt": attempt}
        request_id = (message.headers or {}).get(REQUEST_ID)
        facts: dict[str, str | int] = {"unirig.job_id": run.job_id, "unirig.attempt": attempt}
        with (
            structlog.contextvars.bound_contextvars(
                **context, **({"request_id": request_id} if request_id else {})
            ),
            message_span(f"{delivery.type_name} attempt", message.headers, facts) as span,
        ):
            async with _kept_alive(message, consumer.ack_wait_seconds / 3):
                ending = await self._run(delivery)
            span.set_attribute("unirig.ending", ending)
            if ending in ("failed", "retried"):
                mark_failed(span, ending)
            JOBS_ENDED.labels(delivery.type_name, ending).inc()
            log.info("attempt ended", ending=ending)

    async def _run(self, delivery: _Delivery) -> str:
        """Runs the attempt and settles its message; returns how it ended."""
        job_id, message = delivery.run.job_id, delivery.message
        attempt = asyncio.create_task(self._attempt(delivery))
        self._attempts[job_id, delivery.attempt] = attempt
        interrupted = False
        try:
            await asyncio.wait({attempt})
        except asyncio.CancelledError:
            interrupted = attempt.cancel()
            await asyncio.wait({attempt})
        finally:
            del self._attempts[job_id, delivery.attempt]
        if attempt.cancelled() and not interrupted:
            await self._storage.discard(delivery.run.session_id, job_id)
            await message.ack()
            return "cancelled"
        if attempt.cancelled():
            async with asyncio.timeout(_HAND_BACK_SECONDS):
                await self._publish(delivery.handed_back())
                await message.ack()
            return "handed_back"
        result = attempt.result()
        if result is _Verdict.REFUSED:
            await message.ack()
            return result
        if result is _Verdict.RETRY:
            deliveries = message.metadata.num_delivered
            await message.nak(self._settings.retry_seconds * 3.0 ** (deliveries - 1))
            return result
        await self._publish(result)
        await message.ack()
        return str(result.WhichOneof("outcome"))

    async def _attempt(self, delivery: _Delivery) -> messages_pb2.JobOutcome | _Verdict:
        if not await self._is_granted(delivery):
            return _Verdict.REFUSED
        log.info("attempt begins", type=delivery.type_name)
        progress = Progress()
        publishing = asyncio.create_task(
            progress.publish(self._connection, delivery.run.job_id, delivery.attempt)
        )
        try:
            with BUSY.track_inprogress(), self._scratch.attempt() as folder:
                return await self._work(delivery, folder, progress)
        except StepError as error:
            log.info("job failed", code=error.code, detail=error.detail)
            return delivery.failed(error.detail, error.code)
        except ApiError as error:
            log.warning("storage refused", code=error.code, detail=error.detail)
            if is_transient(error) and not delivery.is_last:
                return _Verdict.RETRY
            return delivery.failed(error.detail, error.code)
        except ModelServerError as error:
            log.warning("the model server failed", error=str(error))
            if not delivery.is_last:
                return _Verdict.RETRY
            return delivery.failed(_NO_MODEL_SERVER_TEXT, ErrorCode.SERVICE_UNAVAILABLE)
        except OSError:
            log.exception("no resources for the attempt")
            if not delivery.is_last:
                return _Verdict.RETRY
            return delivery.failed(_NO_RESOURCES_TEXT, ErrorCode.SERVICE_UNAVAILABLE)
        except Exception:
            log.exception("attempt failed")
            return delivery.failed(_BUG_TEXT, ErrorCode.PROCESSING_FAILED)
        finally:
            publishing.cancel()

    async def _work(
        self, delivery: _Delivery, folder: Path, progress: Progress
    ) -> messages_pb2.JobOutcome | _Verdict:
        run = delivery.run
        place = Workplace(
            folder=folder,
            session_id=run.session_id,
            storage=self._storage,
            limits=self._settings.step_limits,
            progress=progress,
            max_triangles=self._settings.max_triangles,
        )
        results = await make_results(run.spec, self._engine, place)
        # The job may have been cancelled, or given to another worker, unheard.
        if not await self._is_granted(delivery):
            return _Verdict.REFUSED
        succeeded = await save_results(run.job_id, results, place)
        return messages_pb2.JobOutcome(
            job_id=run.job_id, attempt=delivery.attempt, succeeded=succeeded
        )

    async def _is_granted(self, delivery: _Delivery) -> bool:
        """Asks the jobs service, for as long as it does not answer: giving the job back would
        use up one of its deliveries, and no other worker would get an answer either."""
        request = messages_pb2.ClaimJob(
            job_id=delivery.run.job_id,
            attempt=delivery.attempt,
            engine=self._engine.name,
            engine_version=self._engine.version,
        ).SerializeToString()
        while True:
            try:
                reply = await self._connection.request(
                    subjects.CLAIM, request, timeout=_CLAIM_SECONDS, headers=trace_headers()
                )
            except NatsError as error:
                log.info("waiting for the jobs service", error=str(error) or type(error).__name__)
                await asyncio.sleep(1)
                continue
            return bool(messages_pb2.ClaimDecision.FromString(reply.data).granted)

    async def _publish(self, outcome: messages_pb2.JobOutcome) -> None:
        """Puts the outcome on the EVENTS stream, once, however often it must be tried."""
        headers = {"Nats-Msg-Id": f"{outcome.job_id}-{outcome.attempt}", **trace_headers()}
        while True:
            try:
                await self._jetstream.publish(
                    subjects.JOB_OUTCOME, outcome.SerializeToString(), headers=headers
                )
            except NatsError as error:
                log.warning("cannot publish the outcome", error=str(error) or type(error).__name__)
                await asyncio.sleep(1)
                continue
            return


@asynccontextmanager
async def _kept_alive(message: Msg, interval_seconds: float) -> AsyncIterator[None]:
    """Tells JetStream that the message is being worked on, until the end of the block."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(interval_seconds)
            with contextlib.suppress(NatsError):
                await message.in_progress()

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
