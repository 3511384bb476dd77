"""Job events over the WebSocket."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.e2e.conftest import Client


def socket_of(client: Client, session: str | None = None, **options: Any) -> connect:
    url = client.url.replace("http", "ws") + f"/ws?session={session or client.session_id}"
    headers = {"Cookie": f"session_id={client.cookie}"}
    return connect(url, additional_headers=headers, **options)


async def events_until(socket: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """All events up to the first of the kind."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] != kind:
        events.append(json.loads(await asyncio.wait_for(socket.recv(), 200)))
    return events


async def test_a_job_is_followed_from_progress_to_completion(
    client: Client, character: Path
) -> None:
    path = client.uploaded(character)
    async with socket_of(client) as socket:
        job = await asyncio.to_thread(client.job, "skeleton", input_file=path)
        *progress, completed = await events_until(socket, "job_completed")
        # A client that sees job_completed can get the job and the file.
        result = client.http.get(f"/api/jobs/{job['job_id']}").json()
        assert client.http.head(completed["output_file"]).status_code == 200
    assert len(progress) >= 3
    for event in progress:
        assert event["type"] == "job_progress"
        assert event["job_id"] == job["job_id"]
        assert event["status"] in ("pending", "running")
        assert isinstance(event["message"], str)
    values = [event["progress"] for event in progress]
    assert values == sorted(values)
    assert completed["job_id"] == job["job_id"]
    assert completed["status"] == "completed" == result["status"]
    assert completed["output_file"] == result["output_file"]


async def test_a_failed_job_says_why(client: Client) -> None:
    path = client.uploaded(b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "broken.obj")
    async with socket_of(client) as socket:
        job = await asyncio.to_thread(client.job, "skeleton", input_file=path)
        failed = (await events_until(socket, "job_failed"))[-1]
    assert failed["job_id"] == job["job_id"]
    assert failed["status"] == "failed"
    assert failed["error"]


async def test_who_connects_late_hears_of_the_active_job_and_of_its_cancelling(
    client: Client, character: Path
) -> None:
    job = client.job("skeleton", input_file=client.uploaded(character))
    async with socket_of(client) as socket:
        first = json.loads(await asyncio.wait_for(socket.recv(), 10))
        assert first["type"] == "job_progress"
        assert first["job_id"] == job["job_id"]
        await asyncio.to_thread(client.post, f"/api/jobs/{job['job_id']}/cancel")
        cancelled = (await events_until(socket, "job_cancelled"))[-1]
    assert cancelled["job_id"] == job["job_id"]
    assert cancelled["status"] == "cancelled"


async def test_the_cookies_whole_value_names_the_session_too(client: Client) -> None:
    async with socket_of(client, session=client.cookie) as socket:
        await (await socket.ping())


async def test_a_socket_needs_the_sessions_own_cookie(client: Client, other: Client) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with socket_of(client, session=other.session_id):
            pass
    assert refusal.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(client.url.replace("http", "ws") + f"/ws?session={client.session_id}"):
            pass
    assert refusal.value.response.status_code == 401
    body = json.loads(refusal.value.response.body)
    assert set(body) >= {"detail", "error_code", "timestamp"}


@pytest.mark.parametrize("query", ["", "?session="])
async def test_a_socket_must_name_its_session(client: Client, query: str) -> None:
    url = client.url.replace("http", "ws") + f"/ws{query}"
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(url, additional_headers={"Cookie": f"session_id={client.cookie}"}):
            pass
    body = json.loads(refusal.value.response.body)
    assert (refusal.value.response.status_code, body["error_code"]) == (400, "INVALID_REQUEST")


async def test_a_page_of_another_origin_may_not_connect(client: Client) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with socket_of(client, origin="https://elsewhere.example"):
            pass
    assert refusal.value.response.status_code == 403
    async with socket_of(client, origin=client.url) as socket:
        await (await socket.ping())


async def test_deleting_the_session_closes_its_sockets(client: Client, tetrahedron: bytes) -> None:
    client.uploaded(tetrahedron, "model.obj")
    async with socket_of(client) as socket:
        await asyncio.to_thread(client.delete, f"/api/sessions/{client.session_id}")
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 10)
