"""What happens to a job when its worker, or what the worker needs, goes away."""

from collections.abc import AsyncIterator

import pytest
from unirig.v1 import jobs_pb2

from services.common.subjects import MAX_DELIVERIES
from services.jobs.lifecycle import HANDED_BACK
from tests.job_services import (
    JobServices,
    ServiceProcess,
    descendants,
    figure_obj,
    is_alive,
    job_services,
    until,
)

SKELETON = jobs_pb2.JOB_TYPE_SKELETON
COMPLETED = jobs_pb2.JOB_STATUS_COMPLETED


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[JobServices]:
    """The services; a worker that is silent for two seconds counts as dead."""
    async with job_services(tmp_path_factory.mktemp("services"), ACK_WAIT_SECONDS="2") as services:
        yield services


@pytest.fixture
def services(running: JobServices) -> JobServices:
    """The services without any worker, and a session of the test's own."""
    running.new_session()
    for worker in running.workers:
        if worker.process is not None:
            worker.kill()
    return running


async def begun(services: JobServices, worker: ServiceProcess) -> tuple[str, list[int]]:
    """A job that the worker is in the middle of: its id, and the pids of its step."""
    upload = await services.upload("hero.obj", figure_obj())
    job_id = await services.create(SKELETON, upload)
    await services.when(job_id, lambda job: job.progress >= 20)
    await until(lambda: bool(descendants(worker.pid)))
    return job_id, descendants(worker.pid)


async def test_another_worker_completes_the_job_of_one_that_was_killed(
    services: JobServices,
) -> None:
    first = services.worker().start()
    job_id, steps = await begun(services, first)
    first.kill()
    await until(lambda: not any(map(is_alive, steps)))
    [left] = services.scratch.glob("worker-*/job-*")
    services.worker().start()
    assert not left.exists()
    job = await services.ended(job_id)
    assert (job.status, job.attempt) == (COMPLETED, 2), job
    assert await services.results_stored() == len(job.artifacts)
    assert all("-2." not in artifact.path for artifact in job.artifacts)
    assert list(services.scratch.glob("worker-*/job-*")) == []


async def test_a_worker_that_is_told_to_stop_finishes_its_job(services: JobServices) -> None:
    worker = services.worker(SHUTDOWN_GRACE_SECONDS="60").start()
    job_id, _ = await begun(services, worker)
    assert worker.stop() == 0
    job = await services.job(job_id)
    assert (job.status, job.attempt) == (COMPLETED, 1), job
    assert list(services.scratch.glob("worker-*")) == []


async def test_a_worker_that_has_no_time_hands_its_job_over(services: JobServices) -> None:
    worker = services.worker(SHUTDOWN_GRACE_SECONDS="0").start()
    job_id, steps = await begun(services, worker)
    assert worker.stop() == 0
    assert not any(map(is_alive, steps))
    assert list(services.scratch.glob("worker-*")) == []
    waiting = await services.when(job_id, lambda job: job.message == HANDED_BACK)
    assert waiting.status == jobs_pb2.JOB_STATUS_RUNNING
    services.worker().start()
    job = await services.ended(job_id)
    assert job.status == COMPLETED, job


async def test_any_number_of_stopped_workers_costs_a_job_none_of_its_tries(
    services: JobServices,
) -> None:
    upload = await services.upload("hero.obj", figure_obj())
    job_id = await services.create(SKELETON, upload)
    for _ in range(MAX_DELIVERIES + 1):
        worker = services.worker(SHUTDOWN_GRACE_SECONDS="0").start()
        await services.when(job_id, lambda job: job.message != HANDED_BACK and job.progress >= 10)
        assert worker.stop() == 0
        await services.when(job_id, lambda job: job.message == HANDED_BACK)
    services.worker().start()
    job = await services.ended(job_id)
    assert job.status == COMPLETED, job


async def test_a_job_waits_for_a_storage_that_comes_back(services: JobServices) -> None:
    worker = services.worker().start()
    job_id, _ = await begun(services, worker)
    services.storage.kill()
    await services.when(job_id, lambda job: job.progress >= 93)
    services.storage.start()
    job = await services.ended(job_id)
    assert (job.status, job.attempt) == (COMPLETED, 1), job


async def test_a_job_is_tried_again_where_storage_stays_away_for_long(
    services: JobServices,
) -> None:
    upload = await services.upload("hero.obj", figure_obj())
    services.storage.kill()
    job_id = await services.create(SKELETON, upload)
    worker = services.worker(STORAGE_PATIENCE_SECONDS="0.1", RETRY_SECONDS="1")
    worker.spawn()
    await services.when(job_id, lambda job: job.attempt == 2)
    services.storage.start()
    job = await services.ended(job_id)
    assert job.status == COMPLETED, job
    assert 'ending="retried",type="skeleton"}' in worker.metrics()


async def test_after_the_last_try_the_user_learns_why(services: JobServices) -> None:
    upload = await services.upload("hero.obj", figure_obj())
    services.storage.kill()
    job_id = await services.create(SKELETON, upload)
    services.worker(STORAGE_PATIENCE_SECONDS="0.1", RETRY_SECONDS="0.1").spawn()
    job = await services.ended(job_id)
    services.storage.start()
    assert (job.status, job.attempt) == (jobs_pb2.JOB_STATUS_FAILED, 3), job
    assert job.error_code == "SERVICE_UNAVAILABLE"
    assert "try again" in job.error


async def test_a_job_outlives_a_restart_of_nats(services: JobServices) -> None:
    worker = services.worker().start()
    job_id, _ = await begun(services, worker)
    services.restart_nats()
    job = await services.ended(job_id)
    assert job.status == COMPLETED, job


async def test_a_job_outlives_a_restart_of_the_jobs_service(services: JobServices) -> None:
    worker = services.worker().start()
    job_id, _ = await begun(services, worker)
    services.jobs.kill()
    services.jobs.start()
    job = await services.ended(job_id)
    assert (job.status, job.attempt) == (COMPLETED, 1), job


async def test_two_workers_leave_each_others_folders_alone(services: JobServices) -> None:
    first = services.worker().start()
    job_id, _ = await begun(services, first)
    services.worker().start()
    job = await services.ended(job_id)
    assert (job.status, job.attempt) == (COMPLETED, 1), job
    assert len(list(services.scratch.glob("worker-*"))) == 2
