"""Rate limits, on a stack of their own with the reference's numbers where a test can reach them."""

import time
from collections.abc import Iterator

import pytest

from services.cli.servers import free_port
from services.cli.stack import Stack
from tests.e2e.conftest import TETRAHEDRON, Client


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with the reference's upload limit and a small API limit."""
    settings = {"RATE_LIMIT_API_PER_HOUR": "30", "RATE_LIMIT_NEW_SESSIONS_PER_HOUR": "5"}
    with Stack(tmp_path_factory.mktemp("strict"), free_port(), settings=settings) as stack:
        yield stack


def test_the_defaults_are_those_of_the_reference(stack: Stack, client: Client) -> None:
    from services.sessions.settings import SessionsSettings

    fields = SessionsSettings.model_fields
    assert fields["rate_limit_uploads_per_hour"].default == 10
    assert fields["rate_limit_api_per_hour"].default == 1000


def test_the_eleventh_upload_in_an_hour_is_refused(strict: Stack) -> None:
    client = Client(strict.url)
    for number in range(10):
        response = client.upload(TETRAHEDRON, "model.obj")
        assert response.status_code == 200
        assert response.headers["x-ratelimit-limit"] == "10"
        assert response.headers["x-ratelimit-remaining"] == str(9 - number)
        assert 3500 < int(response.headers["x-ratelimit-reset"]) - time.time() <= 3601
    refused = client.upload(TETRAHEDRON, "model.obj")
    assert refused.status_code == 429
    body = refused.json()
    assert body["error_code"] == "RATE_LIMIT_EXCEEDED"
    assert body["detail"] == "Rate limit exceeded. Maximum 10 uploads per hour."
    assert 3500 < body["retry_after"] <= 3600
    assert refused.headers["retry-after"] == str(body["retry_after"])
    assert refused.headers["x-ratelimit-remaining"] == "0"
    # Other requests go on.
    assert client.http.get("/api/jobs").status_code == 200


def test_api_requests_are_limited_too(strict: Stack) -> None:
    client = Client(strict.url)
    answers = [client.http.get("/api/jobs") for _ in range(30)]
    remaining = [int(answer.headers["x-ratelimit-remaining"]) for answer in answers]
    assert remaining == sorted(remaining, reverse=True)
    refused = client.http.get("/api/jobs")
    assert refused.status_code == 429
    body = refused.json()
    assert body["detail"].startswith("Rate limit exceeded. Try again in ")
    assert body["detail"].endswith(" minutes.")
    assert body["retry_after"] > 0


def test_new_sessions_of_one_address_are_limited(strict: Stack) -> None:
    import httpx

    statuses = [httpx.get(f"{strict.url}/api/csrf-token").status_code for _ in range(8)]
    assert statuses[-1] == 429


def test_every_api_answer_has_the_headers(client: Client, tetrahedron: bytes) -> None:
    path = client.uploaded(tetrahedron, "model.obj")
    answers = [
        client.http.get("/api/csrf-token"),
        client.http.get("/api/health"),
        client.http.get("/api/jobs"),
        client.http.get("/api/jobs/none"),
        client.http.get("/api/disk-space"),
        client.http.get(f"/api/sessions/{client.session_id}/stats"),
        client.http.post("/api/jobs/skeleton", json={"input_file": path}),
        client.post("/api/jobs/skeleton", json={"input_file": 3}),
        client.upload(tetrahedron, "wrong.stl"),
        client.http.get("/api/nowhere"),
    ]
    for answer in answers:
        for name in ("limit", "remaining", "reset"):
            assert answer.headers[f"x-ratelimit-{name}"].isdigit(), answer.url
