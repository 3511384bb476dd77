"""Every JSON example of the reference, held against the running service and its OpenAPI document.

An answer matches an example if it has all of its fields, each with the same JSON type; null stands
for a value that is not there yet. More fields are allowed.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.stack import Stack
from tests.e2e.conftest import Client
from tests.e2e.test_websocket import events_until, socket_of

REFERENCE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
ALL = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", REFERENCE, re.DOTALL)]

Rigged = tuple[Client, dict[str, dict[str, Any]]]


def examples(heading: str) -> list[Any]:
    """The JSON blocks between a third-level heading and the next heading."""
    section = re.split(r"\n#{2,3} ", REFERENCE.split(f"\n### {heading}\n", 1)[1])[0]
    return [json.loads(text) for text in re.findall(r"```json\n(.*?)```", section, re.DOTALL)]


def assert_like(answer: Any, example: Any, where: str = "answer") -> None:
    if isinstance(example, dict):
        assert isinstance(answer, dict), where
        for name, value in example.items():
            assert name in answer, f"{where} has no {name}"
            assert_like(answer[name], value, f"{where}.{name}")
    elif isinstance(example, list):
        assert isinstance(answer, list), where
        assert answer, f"{where} is empty"
        for element in answer:
            assert_like(element, example[0], f"{where}[]")
    elif example is None:
        assert answer is None or isinstance(answer, str), where
    elif isinstance(example, str):
        assert isinstance(answer, str), where
        assert bool(TIME.fullmatch(answer)) is bool(TIME.fullmatch(example)), where
    else:
        assert type(answer) in ((int, float) if isinstance(example, float) else (int,)), where


def test_reading_answers_as_the_reference_shows(rigged: Rigged) -> None:
    client, jobs = rigged
    (token,) = examples("Get CSRF Token")
    (health,) = examples("Check API Health")
    (status,) = examples("Get Job Status")
    (listed,) = examples("List Session Jobs")
    (stats,) = examples("Get Session Statistics")
    (space,) = examples("Get Disk Space")
    for path, example in (
        ("/api/csrf-token", token),
        ("/api/health", health),
        (f"/api/jobs/{jobs['merge']['job_id']}", status),
        ("/api/jobs?status=completed", listed),
        (f"/api/sessions/{client.session_id}/stats", stats),
        ("/api/disk-space", space),
    ):
        response = client.http.get(path)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        assert_like(response.json(), example, path)


def test_changing_answers_as_the_reference_shows(client: Client, character: Path) -> None:
    uploaded_as, wrong_format, *_ = examples("Upload 3D Model")
    request, created_as, conflict = examples("Create Skeleton Generation Job")
    (status,) = examples("Get Job Status")
    cancelled_as, uncancellable = examples("Cancel Job")
    (deleted_as,) = examples("Delete Job")
    (ended_as,) = examples("Delete Session")

    assert client.upload(b"solid", "model.stl").json().items() >= wrong_format.items()
    uploaded = client.upload(character, "model.obj").json()
    assert_like(uploaded, uploaded_as)
    assert (uploaded["filename"], uploaded["mime_type"]) == ("model.obj", "model/obj")

    assert list(request) == ["input_file"]
    body = {"input_file": uploaded["path"]}
    created = client.post("/api/jobs/skeleton", json=body)
    assert created.status_code == 200
    assert_like(created.json(), created_as)
    for name in ("status", "type", "progress"):
        assert created.json()[name] == created_as[name]
    second = client.post("/api/jobs/skeleton", json=body)
    assert second.status_code == 409
    assert second.json().items() >= conflict.items()

    job_id = created.json()["job_id"]
    running = client.wait(job_id, until=lambda job: job["status"] == "running")
    assert_like(running, status)
    for name in ("output_file", "error", "completed_at"):
        assert running[name] is status[name] is None
    cancelled = client.post(f"/api/jobs/{job_id}/cancel")
    assert cancelled.json() == {**cancelled_as, "job_id": job_id}
    again = client.post(f"/api/jobs/{job_id}/cancel")
    assert again.status_code == 400
    detail = uncancellable["detail"].replace("completed", "cancelled")
    assert again.json()["detail"] == detail
    assert client.delete(f"/api/jobs/{job_id}").json() == deleted_as
    ended = client.delete(f"/api/sessions/{client.session_id}").json()
    assert_like(ended, ended_as)
    assert ended["message"] == ended_as["message"]


def test_skinning_and_merge_take_the_references_requests(rigged: Rigged) -> None:
    client, jobs = rigged
    (skinning,) = examples("Create Skinning Generation Job")
    (merge,) = examples("Create Merge Job")
    skeleton_file = jobs["skeleton"]["output_file"]
    skinning_file = jobs["skinning"]["output_file"]
    for kind, shown, filled in (
        ("skinning", skinning, {"input_file": skeleton_file}),
        (
            "merge",
            merge,
            {
                "skeleton_file": skeleton_file,
                "skinning_file": skinning_file,
                "output_format": merge["output_format"],
            },
        ),
    ):
        assert list(shown) == list(filled)
        created = client.job(kind, **filled)
        assert_like(created, examples("Create Skeleton Generation Job")[1])
        assert (created["type"], created["status"]) == (kind, "pending")
        client.post(f"/api/jobs/{created['job_id']}/cancel")
        client.wait(created["job_id"])


async def test_events_are_as_the_reference_shows(client: Client, character: Path) -> None:
    progress_as, completed_as, failed_as = examples("Event Types")
    path = client.uploaded(character)
    broken = client.uploaded(b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "broken.obj")
    async with socket_of(client) as socket:
        await asyncio.to_thread(client.job, "skeleton", input_file=path)
        *progress, completed = await events_until(socket, "job_completed")
        await asyncio.to_thread(client.job, "skeleton", input_file=broken)
        failed = (await events_until(socket, "job_failed"))[-1]
    for event in progress:
        assert set(event) == set(progress_as)
        assert_like(event, progress_as)
    assert set(completed) == set(completed_as)
    assert_like(completed, completed_as)
    assert_like(failed, failed_as)


@pytest.fixture(scope="module")
def document(stack: Stack) -> dict[str, Any]:
    return dict(httpx.get(f"{stack.url}/api/openapi.json").json())


def shown_in(part: Any) -> Iterator[dict[str, Any]]:
    """The examples in a part of the OpenAPI document."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name in ("example", "value") and isinstance(value, dict):
                yield value
            yield from shown_in(value)
    elif isinstance(part, list):
        for element in part:
            yield from shown_in(element)


@pytest.mark.parametrize("example", ALL, ids=lambda example: "-".join(example)[:60])
def test_the_openapi_document_carries_every_example(
    document: dict[str, Any], example: dict[str, Any]
) -> None:
    assert any(
        all(name in shown and shown[name] == value for name, value in example.items())
        for shown in shown_in(document)
    )


def test_the_openapi_document_names_the_references_version(document: dict[str, Any]) -> None:
    (version,) = re.findall(r"^\*\*API Version\*\*: (\S+)$", REFERENCE, re.MULTILINE)
    assert document["info"]["version"] == version
