"""What the gateway, the workers and storage rely on in the jobs service."""

import asyncio
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from unirig.v1 import jobs_pb2, messages_pb2

from services.common import subjects
from services.common.errors import ErrorCode
from services.jobs.lifecycle import HANDED_BACK, JobLifecycle
from services.jobs.notices import Notices
from services.jobs.outbox import Outbox
from services.jobs.store import JobStore
from tests.jobs_system import (
    JobsSystem,
    Listener,
    eventually,
    failure,
    handed_back,
    new_session,
    refused,
    success,
)

PENDING = jobs_pb2.JOB_STATUS_PENDING
RUNNING = jobs_pb2.JOB_STATUS_RUNNING
COMPLETED = jobs_pb2.JOB_STATUS_COMPLETED
FAILED = jobs_pb2.JOB_STATUS_FAILED
CANCELLED = jobs_pb2.JOB_STATUS_CANCELLED


@pytest.fixture(scope="module")
async def running_system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[JobsSystem]:
    system = await JobsSystem(tmp_path_factory.mktemp("jobs")).open()
    yield system
    await system.close()


@pytest.fixture
async def system(running_system: JobsSystem) -> JobsSystem:
    """The system with nothing in it."""
    async with Redis.from_url(running_system.redis.url) as redis:
        await redis.flushdb()
    for stream in (subjects.JOBS_STREAM, subjects.EVENTS_STREAM, subjects.DEAD_LETTERS_STREAM):
        await running_system.jetstream.purge_stream(stream)
    return running_system


@pytest.fixture
def session() -> str:
    return new_session()


async def test_a_new_job_is_pending_and_says_what_was_asked(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    assert job.status == PENDING
    assert (job.session_id, job.progress, job.attempt) == (session, 0, 0)
    assert job.spec.type == jobs_pb2.JOB_TYPE_SKELETON
    assert job.spec.input_file == f"/uploads/{session}/model.obj"
    assert job.HasField("created_at")
    assert not job.HasField("started_at")
    assert not job.HasField("completed_at")
    assert await system.get(job) == job


@pytest.mark.parametrize("name", ["skeleton", "skinning", "merge"])
async def test_a_new_job_reaches_a_worker_by_its_type(
    system: JobsSystem, session: str, name: str
) -> None:
    spec = jobs_pb2.JobSpec(
        type=jobs_pb2.JobType.Value(f"JOB_TYPE_{name.upper()}"),
        input_file=f"/results/{session}/a.fbx",
        skinning_file=f"/results/{session}/b.fbx",
        output_format="glb",
        target_file=f"/uploads/{session}/c.fbx",
    )
    request = jobs_pb2.CreateJobRequest(session_id=session, spec=spec)
    job = (await system.stub.CreateJob(request)).job
    delivery = await system.take()
    assert delivery.message.subject == f"jobs.run.{name}"
    assert delivery.message.headers
    assert delivery.message.headers["Nats-Msg-Id"] == job.job_id
    expected = messages_pb2.RunJob(job_id=job.job_id, session_id=session, spec=spec)
    assert delivery.command == expected


async def test_the_request_id_travels_with_the_command(system: JobsSystem, session: str) -> None:
    spec = jobs_pb2.JobSpec(type=jobs_pb2.JOB_TYPE_SKINNING, input_file="/uploads/x/y.obj")
    request = jobs_pb2.CreateJobRequest(session_id=session, spec=spec)
    await system.stub.CreateJob(request, metadata=(("x-request-id", "r-7"),))
    headers = (await system.take()).message.headers
    assert headers
    assert headers["x-request-id"] == "r-7"


async def test_a_claimed_job_runs_and_names_its_engine(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    heard = await system.listen(subjects.notify(session))
    assert await (await system.take()).claim()
    now = await system.get(job)
    assert (now.status, now.attempt, now.engine, now.engine_version) == (
        RUNNING,
        1,
        "geometric",
        "7",
    )
    assert now.started_at.ToMicroseconds() >= now.created_at.ToMicroseconds()
    assert await heard.next_change() == now


async def test_a_claim_may_be_asked_again(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    assert await system.claim(job.job_id, 1)
    await system.report(job.job_id, 1, 30)
    assert await system.claim(job.job_id, 1)
    assert (await system.get(job)).status == RUNNING


async def test_a_later_attempt_supersedes_and_starts_over(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    assert await system.claim(job.job_id, 1)
    await system.report(job.job_id, 1, 60, "Nearly there")
    first = await progress_of(system, job, 60)
    assert await system.claim(job.job_id, 2)
    second = await system.get(job)
    assert (second.attempt, second.progress, second.message) == (2, 0, "")
    assert second.started_at == first.started_at
    assert not await system.claim(job.job_id, 1)


@pytest.mark.parametrize("attempt", [1, 2])
async def test_an_ended_job_is_never_claimed(
    system: JobsSystem, session: str, attempt: int
) -> None:
    job = await system.create(session)
    await system.cancel(job)
    assert not await system.claim(job.job_id, attempt)
    assert (await system.get(job)).status == CANCELLED


async def test_an_unknown_job_is_never_claimed(system: JobsSystem) -> None:
    assert not await system.claim("00000000-0000-4000-8000-000000000000", 1)


async def progress_of(system: JobsSystem, job: jobs_pb2.Job, progress: int) -> jobs_pb2.Job:
    async def look() -> jobs_pb2.Job | None:
        now = await system.get(job)
        return now if now.progress == progress else None

    found = await eventually(look)
    assert found
    return found


async def test_progress_is_shown_and_told_and_never_falls(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    await system.claim(job.job_id, 1)
    heard = await system.listen(subjects.notify(session))
    for percent in (10, 40, 20, 40, 300, 5):
        await system.report(job.job_id, 1, percent, f"At {percent}")
    now = await progress_of(system, job, 99)
    assert now.message == "At 300"
    told = [await heard.next_change() for _ in range(3)]
    assert [(change.progress, change.message) for change in told] == [
        (10, "At 10"),
        (40, "At 40"),
        (99, "At 300"),
    ]
    assert heard.silent()


async def test_a_new_message_at_the_same_progress_is_told(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    await system.claim(job.job_id, 1)
    heard = await system.listen(subjects.notify(session))
    for text in ("Reading", "Reading", "Parsing"):
        await system.report(job.job_id, 1, 5, text)
    assert (await heard.next_change()).message == "Reading"
    assert (await heard.next_change()).message == "Parsing"


async def test_progress_of_another_attempt_or_a_pending_job_changes_nothing(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    await system.report(job.job_id, 1, 50)
    await system.claim(job.job_id, 2)
    await system.report(job.job_id, 1, 60)
    await system.report(job.job_id, 3, 70)
    await system.report(job.job_id, 2, 10)
    assert (await progress_of(system, job, 10)).status == RUNNING


async def test_progress_of_a_cancelled_job_repeats_the_order_to_stop(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    await system.claim(job.job_id, 1)
    await system.cancel(job)
    heard = await system.listen(subjects.cancel(job.job_id))
    await system.report(job.job_id, 1, 50)
    order = messages_pb2.CancelRunningJob.FromString(await heard.next())
    assert order.job_id == job.job_id


async def test_success_completes_the_job_with_everything_it_made(
    system: JobsSystem, session: str
) -> None:
    heard = await system.listen(subjects.notify(session))
    job = await system.run(session)
    assert job.progress == 100
    assert job.output_file == f"/results/{session}/model_skeleton.obj"
    assert [(a.format, a.path, a.size) for a in job.artifacts] == [("obj", job.output_file, 7)]
    assert list(job.notes) == ["The existing rig was replaced"]
    assert (job.error, job.error_code) == ("", "")
    assert job.completed_at.ToMicroseconds() >= job.started_at.ToMicroseconds()
    assert (await heard.next_change()).status == RUNNING
    assert await heard.next_change() == job


async def test_failure_says_why(system: JobsSystem, session: str) -> None:
    job = await system.run(session, error="The mesh has no faces.", code="INVALID_MESH")
    assert (job.status, job.error, job.error_code) == (
        FAILED,
        "The mesh has no faces.",
        "INVALID_MESH",
    )
    assert job.HasField("completed_at")
    assert job.output_file == ""


async def test_an_attempt_that_is_handed_back_uses_up_no_delivery(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    attempts = []
    for _ in range(2 * subjects.MAX_DELIVERIES):
        delivery = await system.take()
        assert await delivery.claim()
        await delivery.progress(30)
        attempts.append(delivery.attempt)
        await delivery.hand_back()
    assert delivery.message.metadata.num_delivered == 1
    assert attempts == sorted(set(attempts))
    last = await system.take()
    waiting = await system.get(job)
    assert (waiting.status, waiting.message) == (RUNNING, HANDED_BACK)
    assert await last.claim()
    assert (await system.get(job)).progress == 0
    await last.finish()
    done = await system.reaches(job, COMPLETED)
    assert done.attempt == last.attempt > attempts[-1]


async def test_a_stopped_workers_late_outcome_is_refused(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    stopped = await system.take()
    assert await stopped.claim()
    await stopped.hand_back()
    other = await system.take()
    assert await other.claim()
    assert not await stopped.claim()
    await system.publish_outcome(handed_back(job.job_id, stopped.attempt))
    await system.publish_outcome(failure(job.job_id, stopped.attempt, "No", "INVALID_MESH"))
    await settled(system)
    assert (await system.get(job)).attempt == other.attempt
    assert await system.messages_in(subjects.JOBS_STREAM) == 1
    await other.finish()
    await system.reaches(job, COMPLETED)


async def test_a_hand_back_that_comes_again_queues_the_job_once(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    delivery = await system.take()
    assert await delivery.claim()
    await delivery.hand_back()
    await system.publish_outcome(handed_back(job.job_id, delivery.attempt))
    await settled(system)
    assert await system.messages_in(subjects.JOBS_STREAM) == 1


async def test_an_attempt_can_be_handed_back_before_it_is_claimed(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    for _ in range(2):
        await (await system.take()).hand_back()
    delivery = await system.take()
    assert (await system.get(job)).status == PENDING
    assert await delivery.claim()
    await delivery.finish()
    await system.reaches(job, COMPLETED)


async def test_a_job_that_was_handed_back_can_be_cancelled(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    delivery = await system.take()
    assert await delivery.claim()
    await delivery.hand_back()
    await settled(system)
    assert (await system.cancel(job)).status == CANCELLED
    assert not await (await system.take()).claim()


async def test_an_outcome_of_an_old_attempt_is_refused(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    await system.claim(job.job_id, 1)
    await system.claim(job.job_id, 2)
    await system.publish_outcome(success(job.job_id, session, 1))
    await system.publish_outcome(failure(job.job_id, 2, "No", "INVALID_MESH"))
    assert (await system.reaches(job, FAILED)).attempt == 2


async def test_an_outcome_of_an_unclaimed_attempt_is_refused(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    await system.publish_outcome(success(job.job_id, session, 1))
    await system.publish_outcome(success(job.job_id, session, 0))
    await settled(system)
    assert (await system.get(job)).status == PENDING
    assert not await system.claim(job.job_id, 0)


async def test_the_first_outcome_is_final(system: JobsSystem, session: str) -> None:
    job = await system.run(session)
    await system.publish_outcome(failure(job.job_id, 1, "No", "INVALID_MESH"))
    await system.publish_outcome(success(job.job_id, session, 1))
    await system.run(session)
    assert await system.get(job) == job


async def test_results_that_come_after_the_cancellation_are_given_to_storage_to_delete(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    await system.claim(job.job_id, 1)
    await system.cancel(job)
    deleted = await system.listen(subjects.JOB_DELETED)
    await system.publish_outcome(success(job.job_id, session, 1))
    event = messages_pb2.JobDeleted.FromString(await deleted.next())
    assert (event.session_id, event.job_id) == (session, job.job_id)
    assert (await system.get(job)).status == CANCELLED


async def test_an_outcome_that_comes_again_is_told_again_but_applied_once(
    system: JobsSystem, session: str
) -> None:
    """The replica that applied it may have died before its notice was out."""
    job = await system.run(session)
    async with Redis.from_url(system.redis.url) as redis:
        store = JobStore(redis, 60_000)
        outbox, notices = Outbox(store, system.connection), Notices(system.connection)
        heard = await system.listen(subjects.notify(session))
        await JobLifecycle(store, outbox, notices).outcome(
            success(job.job_id, session, 1), redelivered=True
        )
    assert await heard.next_change() == job
    assert await system.get(job) == job


async def test_an_event_that_nobody_understands_holds_up_no_other(
    system: JobsSystem, session: str
) -> None:
    await system.jetstream.publish(subjects.JOB_OUTCOME, b"\xff\xff\xff")
    await system.publish_outcome(messages_pb2.JobOutcome(job_id="x", attempt=1))
    await system.connection.publish(subjects.CLAIM, b"\xff\xff\xff", reply="nowhere")
    await system.connection.publish(subjects.progress("x"), b"\xff\xff\xff")
    assert (await system.run(session)).status == COMPLETED


async def test_a_session_has_one_active_job_at_most(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    for _ in ("pending", "running"):
        error = await refused(system.create(session))
        assert error.code is ErrorCode.CONCURRENT_JOB_LIMIT
        assert error.detail == "Cannot create new job: Active job already exists for this session"
        await system.claim(job.job_id, 1)
    await system.create(new_session())


async def test_of_many_creates_at_once_one_wins(system: JobsSystem, session: str) -> None:
    answers = await asyncio.gather(
        *(system.create(session) for _ in range(12)), return_exceptions=True
    )
    assert sum(isinstance(answer, jobs_pb2.Job) for answer in answers) == 1
    assert (await system.list(session)).total == 1


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "deleted"])
async def test_an_ended_job_makes_room_for_the_next(
    system: JobsSystem, session: str, end: str
) -> None:
    await end_job(system, session, end)
    assert (await system.create(session)).status == PENDING


async def end_job(system: JobsSystem, session: str, end: str) -> jobs_pb2.Job:
    match end:
        case "completed":
            return await system.run(session)
        case "failed":
            return await system.run(session, error="No", code="PROCESSING_FAILED")
        case "cancelled":
            return await system.cancel(await system.create(session))
    job = await system.create(session)
    await system.delete(job)
    return job


async def test_cancelling_a_pending_job_ends_it(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    heard = await system.listen(subjects.notify(session))
    cancelled = await system.cancel(job)
    assert cancelled.status == CANCELLED
    assert cancelled.HasField("completed_at")
    assert not cancelled.HasField("started_at")
    assert await system.get(job) == cancelled
    assert await heard.next_change() == cancelled


async def test_cancelling_a_running_job_stops_its_worker(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    delivery = await system.take()
    await delivery.claim()
    await delivery.progress(40)
    await progress_of(system, job, 40)
    stop = await system.listen(subjects.CANCEL_ALL)
    cancelled = await system.cancel(job)
    assert (cancelled.status, cancelled.progress) == (CANCELLED, 40)
    order = messages_pb2.CancelRunningJob.FromString(await stop.next())
    assert order.job_id == job.job_id


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_an_ended_job_is_not_cancellable(system: JobsSystem, session: str, end: str) -> None:
    job = await end_job(system, session, end)
    error = await refused(system.cancel(job))
    assert error.code is ErrorCode.JOB_NOT_CANCELLABLE
    assert error.detail == f"Cannot cancel job: Job already {end}"
    assert await system.get(job) == job


async def test_of_cancel_and_completion_at_once_one_wins(system: JobsSystem, session: str) -> None:
    for _ in range(8):
        job = await system.create(session)
        await system.claim(job.job_id, 1)
        answer, _ = await asyncio.gather(
            system.cancel(job),
            system.publish_outcome(success(job.job_id, session, 1)),
            return_exceptions=True,
        )
        won = CANCELLED if isinstance(answer, jobs_pb2.Job) else COMPLETED
        ended = await system.reaches(job, won)
        await settled(system)
        assert await system.get(job) == ended
        assert (ended.output_file != "") == (won == COMPLETED)


async def settled(system: JobsSystem) -> None:
    """Every outcome so far has been dealt with."""

    async def look() -> bool:
        info = await system.jetstream.consumer_info(subjects.EVENTS_STREAM, "jobs-outcomes")
        return not info.num_pending and not info.num_ack_pending

    await eventually(look)


async def test_another_sessions_job_does_not_exist(system: JobsSystem, session: str) -> None:
    job = await system.create(session)
    stolen = jobs_pb2.Job(job_id=job.job_id, session_id=new_session())
    for call in (system.get, system.cancel, system.delete):
        assert (await refused(call(stolen))).code is ErrorCode.JOB_NOT_FOUND
    assert (await system.get(job)).status == PENDING


@pytest.mark.parametrize(
    "job_id", ["", "7", "00000000-0000-4000-8000-000000000000", "a:b", "../x", "\n", "é" * 500]
)
async def test_an_unknown_job_is_not_found(system: JobsSystem, session: str, job_id: str) -> None:
    unknown = jobs_pb2.Job(job_id=job_id, session_id=session)
    for call in (system.get, system.cancel, system.delete):
        assert (await refused(call(unknown))).code is ErrorCode.JOB_NOT_FOUND


async def test_the_list_is_newest_first_in_pages(system: JobsSystem, session: str) -> None:
    jobs = [await end_job(system, session, "cancelled") for _ in range(5)]
    newest_first = [job.job_id for job in reversed(jobs)]
    everything = await system.list(session)
    assert [job.job_id for job in everything.jobs] == newest_first
    assert list(everything.jobs) == list(reversed(jobs))
    assert everything.total == 5
    page = await system.list(session, limit=2, offset=1)
    assert [job.job_id for job in page.jobs] == newest_first[1:3]
    assert page.total == 5
    beyond = await system.list(session, offset=9)
    assert (list(beyond.jobs), beyond.total) == ([], 5)
    assert (await system.list(new_session())).total == 0


async def test_the_list_filters_by_each_state(system: JobsSystem, session: str) -> None:
    ended = {
        COMPLETED: await end_job(system, session, "completed"),
        FAILED: await end_job(system, session, "failed"),
        CANCELLED: await end_job(system, session, "cancelled"),
    }
    active = await system.create(session)
    for status, job in {**ended, PENDING: active}.items():
        found = await system.list(session, status=status)
        assert ([one.job_id for one in found.jobs], found.total) == ([job.job_id], 1)
    assert (await system.list(session, status=RUNNING)).total == 0
    await system.claim(active.job_id, 1)
    assert (await system.list(session, status=RUNNING)).jobs[0].job_id == active.job_id
    assert (await system.list(session, status=PENDING)).total == 0


async def test_jobs_are_counted_by_state(system: JobsSystem, session: str) -> None:
    for end in ("completed", "failed", "failed", "cancelled", "deleted"):
        await end_job(system, session, end)
    await system.create(session)
    counts = await system.stub.CountJobs(jobs_pb2.CountJobsRequest(session_id=session))
    assert counts == jobs_pb2.CountJobsResponse(pending=1, completed=1, failed=2, cancelled=1)


@pytest.mark.parametrize(
    "page", [{"limit": 0}, {"limit": 201}, {"offset": -1}, {"offset": 2**31 - 1}, {"status": 77}]
)
async def test_a_page_that_cannot_be_is_refused(
    system: JobsSystem, session: str, page: dict[str, Any]
) -> None:
    assert (await refused(system.list(session, **page))).code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"type": 9, "input_file": "/uploads/x/a.obj"},
        {"type": jobs_pb2.JOB_TYPE_SKELETON},
        {"type": jobs_pb2.JOB_TYPE_MERGE, "input_file": "/results/x/a.fbx", "output_format": "fbx"},
        {
            "type": jobs_pb2.JOB_TYPE_MERGE,
            "input_file": "/results/x/a.fbx",
            "skinning_file": "/results/x/b.fbx",
            "output_format": "obj",
        },
    ],
)
async def test_a_job_that_cannot_be_is_refused(
    system: JobsSystem, session: str, spec: dict[str, Any]
) -> None:
    request = jobs_pb2.CreateJobRequest(session_id=session, spec=jobs_pb2.JobSpec(**spec))
    assert (await refused(system.stub.CreateJob(request))).code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("session_id", ["", "x", "A" * 32, "a" * 31 + "\n", "*" * 32])
async def test_what_is_no_session_id_is_refused(system: JobsSystem, session_id: str) -> None:
    assert (await refused(system.create(session_id))).code is ErrorCode.INVALID_REQUEST


async def test_a_deleted_job_is_gone_and_storage_is_told(system: JobsSystem, session: str) -> None:
    job = await system.run(session)
    deleted = await system.listen(subjects.JOB_DELETED)
    await system.delete(job)
    event = messages_pb2.JobDeleted.FromString(await deleted.next())
    assert (event.session_id, event.job_id) == (session, job.job_id)
    for call in (system.get, system.cancel, system.delete):
        assert (await refused(call(job))).code is ErrorCode.JOB_NOT_FOUND
    assert (await system.list(session)).total == 0
    assert (await system.list(session, status=COMPLETED)).total == 0


async def test_an_active_job_is_cancelled_before_it_is_deleted(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    await system.claim(job.job_id, 1)
    stop = await system.listen(subjects.cancel(job.job_id))
    heard = await system.listen(subjects.notify(session))
    await system.delete(job)
    assert messages_pb2.CancelRunningJob.FromString(await stop.next()).job_id == job.job_id
    assert (await heard.next_change()).status == CANCELLED
    assert not await system.claim(job.job_id, 2)


async def test_an_ended_session_stops_its_job_and_leaves_nothing(
    system: JobsSystem, session: str
) -> None:
    await end_job(system, session, "cancelled")
    await end_job(system, session, "completed")
    job = await system.create(session)
    await system.claim(job.job_id, 1)
    stop = await system.listen(subjects.cancel(job.job_id))
    await system.end_session(session)
    await stop.next()

    async def gone() -> bool:
        return (await system.list(session)).total == 0

    await eventually(gone)
    assert (await refused(system.get(job))).code is ErrorCode.JOB_NOT_FOUND
    async with Redis.from_url(system.redis.url) as redis:
        left = [key.decode() async for key in redis.scan_iter("*")]
    assert [key for key in left if key != f"jobs:ended:{session}"] == []


async def test_an_ended_session_gets_no_new_job(system: JobsSystem, session: str) -> None:
    await system.end_session(session)

    async def refusal() -> bool:
        try:
            await system.cancel(await system.create(session))
        except Exception:
            return True
        return False

    await eventually(refusal)
    assert (await refused(system.create(session))).code is ErrorCode.SESSION_NOT_FOUND


async def test_a_job_fails_after_its_last_delivery_and_its_command_is_kept(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    dead = await system.listen(subjects.dead(job.job_id))
    for attempt in (1, 2, 3):
        delivery = await system.take()
        assert delivery.attempt == attempt
        assert await delivery.claim()
        await delivery.message.nak(delay=0.05)
    async with system.idle_worker():
        failed = await system.reaches(job, FAILED)
    assert failed.error_code == "PROCESSING_FAILED"
    assert "given up after 3 attempts" in failed.error
    kept = messages_pb2.RunJob.FromString(await dead.next())
    assert (kept.job_id, kept.spec) == (job.job_id, delivery.command.spec)

    async def removed() -> bool:
        return await system.messages_in(subjects.JOBS_STREAM) == 0

    await eventually(removed)
    assert await system.messages_in(subjects.DEAD_LETTERS_STREAM) == 1
    await system.publish_outcome(success(job.job_id, session, 3))
    assert (await system.run(session)).status == COMPLETED
    assert await system.get(job) == failed


async def test_a_job_fails_after_its_last_delivery_even_if_no_attempt_claimed_it(
    system: JobsSystem, session: str
) -> None:
    job = await system.create(session)
    for _ in (1, 2, 3):
        await (await system.take()).message.nak()
    async with system.idle_worker():
        failed = await system.reaches(job, FAILED)
    assert (failed.attempt, failed.HasField("started_at")) == (0, False)


async def test_the_service_is_ready_and_counts_what_it_does(
    system: JobsSystem, session: str
) -> None:
    await system.run(session)
    address = f"http://127.0.0.1:{system.replicas[0].metrics_port}"

    def read(path: str) -> str:
        with urllib.request.urlopen(address + path) as response:
            text: str = response.read().decode()
        return text

    async def ready() -> bool:
        try:
            return await asyncio.to_thread(read, "/readyz") == "ok\n"
        except urllib.error.HTTPError:
            return False

    await eventually(ready)
    metrics = await asyncio.to_thread(read, "/metrics")
    for line in (
        'unirig_job_transitions_total{engine="none",status="pending",type="skeleton"}',
        'unirig_job_transitions_total{engine="geometric",status="completed",type="skeleton"}',
        'unirig_job_failures_total{code="GPU_OUT_OF_MEMORY",type="skeleton"} 0.0',
        'unirig_job_dead_letters_total{type="merge"} 0.0',
        'unirig_job_queue_seconds_count{type="skeleton"}',
        'unirig_job_run_seconds_count{engine="geometric",status="completed",type="skeleton"}',
        "unirig_jobs_active",
        "unirig_jobs_outbox_messages",
    ):
        assert line in metrics


async def test_what_waits_in_the_queue_and_fills_redis_is_measured(
    system: JobsSystem, session: str
) -> None:
    await system.create(session)
    address = f"http://127.0.0.1:{system.replicas[0].metrics_port}/metrics"

    def read() -> str:
        with urllib.request.urlopen(address) as response:
            text: str = response.read().decode()
        return text

    def value(metrics: str, series: str) -> float:
        found = re.search(rf"^{re.escape(series)} (\S+)$", metrics, re.MULTILINE)
        return float(found[1]) if found else 0

    waiting = 'unirig_jetstream_consumer_pending_messages{consumer="workers",stream="JOBS"}'

    async def measured() -> bool:
        metrics = await asyncio.to_thread(read)
        return (
            value(metrics, waiting) == 1
            and value(metrics, "unirig_job_oldest_wait_seconds") > 0
            and value(metrics, "unirig_redis_memory_used_bytes") > 500_000
        )

    await eventually(measured)
    system.redis.stop()

    async def unmeasured() -> bool:
        return "unirig_redis_memory_used_bytes NaN" in await asyncio.to_thread(read)

    await eventually(unmeasured)
    system.start_redis()


async def test_notices_of_one_job_come_in_order(system: JobsSystem, session: str) -> None:
    heard: Listener = await system.listen(subjects.notify(session))
    job = await system.create(session)
    delivery = await system.take()
    await delivery.claim()
    for percent in range(10, 100, 10):
        await delivery.progress(percent)
    await progress_of(system, job, 90)
    await delivery.finish()
    told = [await heard.next_change() for _ in range(11)]
    assert [change.progress for change in told] == [*range(0, 100, 10), 100]
    assert told[-1].status == COMPLETED
