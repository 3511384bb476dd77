"""What one WebSocket is told of its jobs, and what a slow one is spared."""

import asyncio
from typing import Any

import pytest
from unirig.v1 import jobs_pb2

from services.gateway.notifications import GOING_AWAY, Inbox, Notifications

PENDING, RUNNING = jobs_pb2.JOB_STATUS_PENDING, jobs_pb2.JOB_STATUS_RUNNING
COMPLETED, CANCELLED = jobs_pb2.JOB_STATUS_COMPLETED, jobs_pb2.JOB_STATUS_CANCELLED


def job(job_id: str, status: Any, progress: int = 0, attempt: int = 1, message: str = "") -> Any:
    return jobs_pb2.Job(
        job_id=job_id, status=status, progress=progress, attempt=attempt, message=message
    )


async def drained(inbox: Inbox) -> list[tuple[str, Any, int]]:
    inbox.close(1000, "")
    taken = []
    while (found := await inbox.take()) is not None:
        taken.append((found.job_id, found.status, found.progress))
    return taken


async def test_a_slow_client_gets_the_latest_progress_only() -> None:
    inbox = Inbox()
    for progress in range(100):
        inbox.offer(job("a", RUNNING, progress))
    assert await drained(inbox) == [("a", RUNNING, 99)]


async def test_an_end_is_never_dropped() -> None:
    inbox = Inbox()
    inbox.offer(job("a", RUNNING, 10))
    inbox.offer(job("a", COMPLETED, 100))
    inbox.offer(job("b", RUNNING, 10))
    inbox.offer(job("b", CANCELLED, 10))
    inbox.offer(job("c", PENDING))
    assert await drained(inbox) == [
        ("a", COMPLETED, 100),
        ("b", CANCELLED, 10),
        ("c", PENDING, 0),
    ]


async def test_an_end_is_final_and_told_once() -> None:
    inbox = Inbox()
    inbox.offer(job("a", COMPLETED, 100))
    assert await inbox.take() is not None
    inbox.offer(job("a", COMPLETED, 100))
    inbox.offer(job("a", RUNNING, 50))
    assert await drained(inbox) == []


@pytest.mark.parametrize(
    ("later", "told"),
    [
        (job("a", RUNNING, 50), False),
        (job("a", RUNNING, 49, message="Loading"), False),
        (job("a", PENDING, 0), False),
        (job("a", RUNNING, 50, message="Predicting skeleton"), True),
        (job("a", RUNNING, 51), True),
        (job("a", RUNNING, 0, attempt=2), True),
        (job("a", COMPLETED, 100), True),
    ],
)
async def test_only_what_is_newer_is_told(later: jobs_pb2.Job, told: bool) -> None:
    inbox = Inbox()
    inbox.offer(job("a", RUNNING, 50))
    await inbox.take()
    inbox.offer(later)
    assert bool(await drained(inbox)) is told


async def test_a_state_that_was_skipped_is_not_told_later() -> None:
    inbox = Inbox()
    inbox.skip(job("a", COMPLETED, 100))
    inbox.offer(job("a", COMPLETED, 100))
    assert await drained(inbox) == []


async def test_shutting_down_waits_until_the_sockets_have_gone() -> None:
    notifications = Notifications()
    ended = []

    async def client() -> None:
        with notifications.inbox("f" * 32) as inbox:
            while await inbox.take() is not None:
                pass
            ended.append(inbox.closed)

    clients = [asyncio.create_task(client()) for _ in range(3)]
    await asyncio.sleep(0)
    await notifications.close(10)
    assert [code for code, _ in filter(None, ended)] == [GOING_AWAY] * 3
    await asyncio.gather(*clients)
