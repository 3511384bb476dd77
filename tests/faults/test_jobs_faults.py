"""The jobs service when its parts die: no job is lost, doubled or left active for ever."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from unirig.v1 import jobs_pb2, messages_pb2

from services.common import subjects
from services.common.errors import ErrorCode
from services.jobs.outbox_message import OutboxMessage
from services.jobs.record import command_of
from services.jobs.store import JobStore
from tests.jobs_system import (
    ACK_WAIT_SECONDS,
    Delivery,
    JobsSystem,
    eventually,
    new_session,
    refused,
    success,
)

PENDING = jobs_pb2.JOB_STATUS_PENDING
RUNNING = jobs_pb2.JOB_STATUS_RUNNING
COMPLETED = jobs_pb2.JOB_STATUS_COMPLETED
FAILED = jobs_pb2.JOB_STATUS_FAILED
CANCELLED = jobs_pb2.JOB_STATUS_CANCELLED
# Longer than an active job may be silent before the service looks for it, several times over.
LONG = ACK_WAIT_SECONDS * 5


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[JobsSystem]:
    system = await JobsSystem(tmp_path).open()
    yield system
    await system.close()


@pytest.fixture
def session() -> str:
    return new_session()


async def only_delivery(system: JobsSystem, job: jobs_pb2.Job) -> Delivery:
    """The job's command, which must be the only one in the stream."""
    delivery = await system.take()
    assert delivery.command.job_id == job.job_id
    assert await system.messages_in(subjects.JOBS_STREAM) == 1
    return delivery


async def nats_answers(system: JobsSystem) -> None:
    async def look() -> bool:
        return system.connection.is_connected

    await eventually(look)


async def when_it_answers(call: Callable[[], Awaitable[jobs_pb2.Job]]) -> jobs_pb2.Job:
    """The call's answer once the service is available again."""
    for _ in range(100):
        try:
            return await call()
        except Exception:
            await asyncio.sleep(0.1)
    return await call()


async def written_before_a_crash(system: JobsSystem, session: str, published: bool) -> jobs_pb2.Job:
    """A job as a replica leaves it that dies just before, or just after, publishing its command."""
    job_id = str(uuid.uuid4())
    spec = jobs_pb2.JobSpec(type=jobs_pb2.JOB_TYPE_SKELETON, input_file="/uploads/x/y.obj")
    command = OutboxMessage(
        id=job_id,
        subject=subjects.run("skeleton"),
        payload=command_of(jobs_pb2.Job(job_id=job_id, session_id=session, spec=spec)),
        job_id=job_id,
    )
    if published:
        await system.jetstream.publish(
            command.subject, command.payload, headers={"Nats-Msg-Id": command.id}
        )
    async with Redis.from_url(system.redis.url) as redis:
        return await JobStore(redis, 60_000).create(job_id, session, spec, command)


@pytest.mark.parametrize("published", [False, True])
async def test_a_crash_around_publishing_neither_loses_nor_doubles_the_command(
    system: JobsSystem, session: str, published: bool
) -> None:
    job = await written_before_a_crash(system, session, published)
    delivery = await only_delivery(system, job)
    await outbox_empty(system)
    assert await system.messages_in(subjects.JOBS_STREAM) == 1
    assert await delivery.claim()
    await delivery.finish()
    await system.reaches(job, COMPLETED)


async def test_a_command_that_a_crash_held_up_goes_out_in_the_trace_of_its_request(
    system: JobsSystem, session: str
) -> None:
    system.nats.process.kill()
    system.nats.process.wait()
    trace_id = uuid.uuid4().hex
    spec = jobs_pb2.JobSpec(type=jobs_pb2.JOB_TYPE_SKELETON, input_file="/uploads/x/y.obj")
    await system.stub.CreateJob(
        jobs_pb2.CreateJobRequest(session_id=session, spec=spec),
        metadata=(("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"),),
        timeout=10,
    )
    system.replicas[0].kill()
    system.start_nats()
    await system.restart_jobs()
    await nats_answers(system)
    headers = (await system.take()).message.headers
    assert headers
    assert headers["traceparent"].split("-")[1] == trace_id


async def used_up(system: JobsSystem) -> None:
    """JetStream has said that a command has no deliveries left."""

    async def look() -> bool:
        return bool(await system.messages_in("JOBS_EXHAUSTED"))

    await eventually(look)


async def outbox_empty(system: JobsSystem) -> None:
    async with Redis.from_url(system.redis.url) as redis:

        async def look() -> bool:
            return not await redis.zcard("jobs:outbox")

        await eventually(look)


async def test_a_job_created_while_nats_is_down_runs_once_it_is_up(
    system: JobsSystem, session: str
) -> None:
    system.nats.stop()
    job = await system.create(session)
    assert job.status == PENDING
    assert (await refused(system.create(session))).code is ErrorCode.CONCURRENT_JOB_LIMIT
    system.start_nats()
    await nats_answers(system)
    delivery = await only_delivery(system, job)
    assert await delivery.claim()
    await delivery.finish()
    await system.reaches(job, COMPLETED)


async def test_a_job_cancelled_while_nats_is_down_never_runs(
    system: JobsSystem, session: str
) -> None:
    system.nats.stop()
    job = await system.create(session)
    assert (await system.cancel(job)).status == CANCELLED
    after = await system.create(session)
    system.start_nats()
    await nats_answers(system)
    await only_delivery(system, after)


async def test_a_deletion_while_nats_is_down_reaches_storage_once_it_is_up(
    system: JobsSystem, session: str
) -> None:
    job = await system.run(session)
    system.nats.stop()
    await system.delete(job)
    system.start_nats()
    await nats_answers(system)
    await outbox_empty(system)
    message = await system.jetstream.get_last_msg(subjects.EVENTS_STREAM, subjects.JOB_DELETED)
    assert messages_pb2.JobDeleted.FromString(message.data or b"").job_id == job.job_id


async def test_outcomes_wait_for_a_killed_service(system: JobsSystem, session: str) -> None:
    jobs = []
    for owner in (session, new_session()):
        jobs.append(await system.create(owner))
        assert await (await system.take()).claim()
    system.replicas[0].kill()
    for job in jobs:
        await system.publish_outcome(success(job.job_id, job.session_id, 1))
    await system.restart_jobs()
    for job in jobs:
        assert (await system.reaches(job, COMPLETED)).progress == 100


async def test_an_ended_session_waits_for_a_killed_service(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    system.replicas[0].kill()
    await system.end_session(session)
    await system.restart_jobs()

    async def gone() -> bool:
        return (await system.list(session)).total == 0

    await eventually(gone)
    assert not await system.claim(job.job_id, 1)


async def test_a_dead_workers_job_goes_to_another_and_the_dead_ones_outcome_is_refused(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    dead = await system.take()
    assert await dead.claim()
    await dead.progress(70)
    other = await system.take()
    assert (other.command.job_id, other.attempt) == (job.job_id, 2)
    assert await other.claim()
    await dead.progress(90)
    await system.publish_outcome(success(job.job_id, session, dead.attempt))
    await other.progress(10)
    await other.finish()
    done = await system.reaches(job, COMPLETED)
    assert done.attempt == 2


async def test_a_command_delivered_twice_runs_once(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    first = await only_delivery(system, job)
    await system.jetstream.publish(first.message.subject, first.message.data)
    assert await first.claim()
    await first.finish()
    await system.reaches(job, COMPLETED)
    double = await system.take()
    assert double.command.job_id == job.job_id
    assert not await double.claim()


async def test_a_job_that_waits_long_in_the_queue_is_left_alone(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    await asyncio.sleep(LONG)
    assert (await system.get(job)).status == PENDING
    delivery = await only_delivery(system, job)
    assert delivery.attempt == 1
    assert await delivery.claim()


async def test_a_long_job_whose_worker_lives_is_left_alone(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    delivery = await system.take()
    assert await delivery.claim()
    async with system.idle_worker():
        for _ in range(int(LONG / 0.3)):
            await delivery.message.in_progress()
            await asyncio.sleep(0.3)
    now = await system.get(job)
    assert (now.status, now.attempt) == (RUNNING, 1)
    await delivery.finish()
    await system.reaches(job, COMPLETED)


async def test_the_last_attempt_that_reports_is_left_alone(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    for _ in range(2):
        await (await system.take()).message.nak()
    delivery = await system.take()
    assert delivery.attempt == 3
    assert await delivery.claim()
    for _ in range(int(LONG / 0.3)):
        await delivery.message.in_progress()
        await delivery.progress(30)
        await asyncio.sleep(0.3)
    assert (await system.get(job)).status == RUNNING
    await delivery.finish()
    await system.reaches(job, COMPLETED)


async def test_a_job_handed_back_on_its_last_delivery_waits_as_long_as_it_takes(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    for _ in range(2):
        await (await system.take()).message.nak()
    last = await system.take()
    assert await last.claim()
    await last.hand_back()
    await asyncio.sleep(LONG)
    assert (await system.get(job)).status == RUNNING
    other = await system.take()
    assert await other.claim()
    await other.finish()
    await system.reaches(job, COMPLETED)


async def test_a_job_handed_back_whose_command_is_lost_is_dispatched_again(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    delivery = await system.take()
    assert await delivery.claim()
    await delivery.hand_back()
    await (await system.take()).message.ack()
    again = await system.take()
    assert again.command.job_id == job.job_id
    assert await again.claim()
    await again.finish()
    await system.reaches(job, COMPLETED)


async def test_a_job_whose_last_worker_died_fails_although_no_worker_is_left(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    for _ in range(2):
        await (await system.take()).message.nak()
    assert await (await system.take()).claim()
    failed = await system.reaches(job, FAILED)
    assert (failed.error_code, failed.attempt) == ("PROCESSING_FAILED", 3)
    assert await system.messages_in(subjects.JOBS_STREAM) == 0


async def test_a_last_delivery_that_fails_while_the_service_is_dead_is_not_forgotten(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    system.replicas[0].kill()
    for _ in range(3):
        await (await system.take()).message.nak()
    async with system.idle_worker():
        await used_up(system)
    await system.restart_jobs()
    failed = await system.reaches(job, FAILED)
    assert failed.error_code == "PROCESSING_FAILED"


async def test_an_outcome_before_the_last_worker_died_counts(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    for _ in range(2):
        await (await system.take()).message.nak()
    delivery = await system.take()
    assert await delivery.claim()
    system.replicas[0].kill()
    await system.publish_outcome(success(job.job_id, session, 3))
    async with system.idle_worker():
        await used_up(system)
    await system.restart_jobs()
    await system.reaches(job, COMPLETED)

    async def removed() -> bool:
        return not await system.messages_in(subjects.JOBS_STREAM)

    await eventually(removed)
    assert (await system.get(job)).status == COMPLETED


async def test_a_used_up_command_that_nobody_announced_is_found(
    system: JobsSystem, session: str
) -> None:
    await system.jetstream.delete_stream("JOBS_EXHAUSTED")
    job = await system.create(session)
    for _ in range(3):
        await (await system.take()).message.nak()
    async with system.idle_worker():
        failed = await system.reaches(job, FAILED)
    assert failed.error_code == "PROCESSING_FAILED"


async def test_a_command_that_was_purged_before_it_ran_is_sent_again(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    await system.jetstream.purge_stream(subjects.JOBS_STREAM)
    delivery = await only_delivery(system, job)
    assert await delivery.claim()
    await delivery.finish()
    await system.reaches(job, COMPLETED)


async def test_a_running_job_without_command_and_worker_fails(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    delivery = await system.take()
    assert await delivery.claim()
    await delivery.message.ack()
    failed = await system.reaches(job, FAILED)
    assert failed.error_code == "PROCESSING_FAILED"
    assert (await system.create(session)).status == PENDING


async def test_the_service_recovers_from_a_nats_that_lost_everything(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    system.nats.stop()
    system.start_nats("another folder")
    await nats_answers(system)

    async def restored() -> bool:
        try:
            return await system.messages_in(subjects.JOBS_STREAM) == 1
        except Exception:
            return False

    await eventually(restored)
    delivery = await only_delivery(system, job)
    assert await delivery.claim()
    await delivery.finish()
    await system.reaches(job, COMPLETED)


async def test_a_stream_or_consumer_that_was_removed_comes_back(
    system: JobsSystem, session: str
) -> None:
    await system.jetstream.delete_stream(subjects.JOBS_STREAM)
    await system.jetstream.delete_stream(subjects.EVENTS_STREAM)
    job = await system.create(session)
    await outbox_empty(system)
    await system.jetstream.delete_consumer(subjects.JOBS_STREAM, subjects.JOBS_CONSUMER)

    async def restored() -> bool:
        consumers = await system.jetstream.consumers_info(subjects.JOBS_STREAM)
        return [one.name for one in consumers] == [subjects.JOBS_CONSUMER]

    await eventually(restored)
    delivery = await only_delivery(system, job)
    assert await delivery.claim()
    await delivery.finish()
    await system.reaches(job, COMPLETED)


async def test_no_accepted_job_is_lost_while_replicas_die(system: JobsSystem) -> None:
    sessions = [new_session() for _ in range(40)]
    system.start_jobs()

    async def work() -> None:
        while True:
            delivery = await system.take(60)
            try:
                if not await delivery.claim():
                    await delivery.message.ack()
                    continue
            except Exception:
                await delivery.message.nak(delay=0.2)
                continue
            await delivery.finish()

    async def create(*owners: str) -> list[jobs_pb2.Job | BaseException]:
        calls = (system.create(owner) for owner in owners)
        return await asyncio.gather(*calls, return_exceptions=True)

    worker = asyncio.create_task(work())
    before = await create(*sessions[:15])
    interrupted = asyncio.create_task(create(*sessions[15:20]))
    await asyncio.sleep(0.01)
    system.replicas[0].kill()
    during = await interrupted
    await system.replicas.pop(0).channel.close()
    after = await create(*sessions[20:])
    accepted = [one for one in before + during + after if isinstance(one, jobs_pb2.Job)]
    assert len(accepted) >= 35

    async def all_done() -> bool:
        lists = [await system.list(session) for session in sessions]
        return all(job.status == COMPLETED for page in lists for job in page.jobs)

    await eventually(all_done, 60)
    worker.cancel()
    await asyncio.wait({worker})
    for job in accepted:
        assert (await system.get(job)).status == COMPLETED


async def test_without_redis_every_call_is_unavailable_and_with_it_all_is_well(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    await asyncio.sleep(1.5)  # Redis writes its log to disk once a second.
    system.redis.process.kill()
    system.redis.process.wait()
    for call in (
        system.create(session),
        system.get(job),
        system.list(session),
        system.cancel(job),
        system.delete(job),
        system.stub.CountJobs(jobs_pb2.CountJobsRequest(session_id=session)),
    ):
        error = await refused(call)
        assert error.code is ErrorCode.SERVICE_UNAVAILABLE
        assert "127.0.0.1" not in error.detail
    await system.publish_outcome(success(job.job_id, session, 1))
    system.start_redis()
    assert (await when_it_answers(lambda: system.get(job))).status == PENDING
    delivery = await only_delivery(system, job)
    assert await delivery.claim()
    await delivery.finish()
    await system.reaches(job, COMPLETED)


async def test_an_outcome_waits_for_redis(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    delivery = await system.take()
    assert await delivery.claim()
    await asyncio.sleep(1.5)  # Redis writes its log to disk once a second.
    system.redis.stop()
    await delivery.finish()
    await asyncio.sleep(0.5)
    system.start_redis()

    async def completed() -> bool:
        return (await when_it_answers(lambda: system.get(job))).status == COMPLETED

    await eventually(completed)


async def test_replicas_share_the_work(system: JobsSystem, session: str) -> None:
    system.start_jobs()
    heard = await system.listen(subjects.notify(session))
    job = await system.run(session)
    assert (await heard.next_change()).status == RUNNING
    assert (await heard.next_change()) == job
    await asyncio.sleep(0.5)
    assert heard.silent()
    system.replicas[1].kill()
    for _ in range(3):
        await system.run(session)


@pytest.mark.parametrize("nats_up", [True, False])
async def test_told_to_stop_the_service_ends_in_order(
    system: JobsSystem, session: str, nats_up: bool
) -> None:
    await system.create(session)
    if not nats_up:
        system.nats.stop()
    assert system.replicas[0].terminate() == 0
