"""Authentication, CSRF protection and session management, as the reference has them."""

import re

import httpx
import pytest

from services.cli.stack import Stack
from tests.e2e.conftest import Client


def test_a_csrf_token_comes_with_an_http_only_session_cookie(stack: Stack) -> None:
    response = httpx.get(f"{stack.url}/api/csrf-token")
    assert response.status_code == 200
    assert list(response.json()) == ["csrf_token"]
    cookie = response.headers["set-cookie"]
    assert re.match(r"session_id=[0-9a-f]{32}\.[0-9a-zA-Z_-]+;", cookie)
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert "Secure" not in cookie


def test_a_second_token_keeps_the_session(client: Client) -> None:
    before = client.cookie
    response = client.http.get("/api/csrf-token")
    assert response.json()["csrf_token"]
    assert client.cookie == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/upload"),
        ("POST", "/api/jobs/skeleton"),
        ("POST", "/api/jobs/skinning"),
        ("POST", "/api/jobs/merge"),
        ("POST", "/api/jobs/some-job/cancel"),
        ("DELETE", "/api/jobs/some-job"),
        ("DELETE", "/api/sessions/{session}"),
    ],
)
def test_every_change_needs_the_token(client: Client, method: str, path: str) -> None:
    path = path.format(session=client.session_id)
    missing = client.http.request(method, path)
    assert (missing.status_code, missing.json()["error_code"]) == (403, "CSRF_TOKEN_MISSING")
    wrong = client.http.request(method, path, headers={"X-CSRF-Token": "a1b2c3d4"})
    assert (wrong.status_code, wrong.json()["error_code"]) == (403, "CSRF_TOKEN_INVALID")


def test_a_token_of_another_session_does_not_work_with_my_cookie(
    client: Client, other: Client, tetrahedron: bytes
) -> None:
    client.uploaded(tetrahedron, "mine.obj")
    other.uploaded(tetrahedron, "theirs.obj")
    response = client.http.post(
        "/api/upload",
        headers={"X-CSRF-Token": other.token},
        files={"file": ("model.obj", tetrahedron)},
    )
    assert (response.status_code, response.json()["error_code"]) == (403, "CSRF_TOKEN_INVALID")


def test_a_token_without_a_cookie_makes_a_session_and_opens_no_existing_one(
    stack: Stack, tetrahedron: bytes
) -> None:
    token = httpx.get(f"{stack.url}/api/csrf-token").json()["csrf_token"]
    sessions = set()
    for _ in range(2):
        response = httpx.post(
            f"{stack.url}/api/upload",
            headers={"X-CSRF-Token": token},
            files={"file": ("model.obj", tetrahedron)},
        )
        assert response.status_code == 200
        value = response.cookies["session_id"]
        path = response.json()["path"]
        assert path == f"/uploads/{value.partition('.')[0]}/model.obj"
        sessions.add(value)
        # The token is bound to the new session from now on.
        job = httpx.post(
            f"{stack.url}/api/jobs/skeleton",
            headers={"X-CSRF-Token": token},
            cookies={"session_id": value},
            json={"input_file": path},
        )
        assert job.status_code == 200
    assert len(sessions) == 2


@pytest.mark.parametrize("path", ["/api/jobs", "/api/jobs/some-job"])
def test_a_read_without_a_session_is_unauthorized(stack: Stack, path: str) -> None:
    response = httpx.get(stack.url + path)
    assert (response.status_code, response.json()["error_code"]) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    "value", ["nonsense", "a" * 32, "a" * 32 + ".b", "a" * 32 + "." + "b" * 64]
)
def test_a_forged_cookie_is_unauthorized(stack: Stack, client: Client, value: str) -> None:
    read = httpx.get(f"{stack.url}/api/jobs", cookies={"session_id": value})
    assert read.status_code == 401
    forged = f"{client.session_id}.{'0' * 64}"
    assert httpx.get(f"{stack.url}/api/jobs", cookies={"session_id": forged}).status_code == 401


def test_statistics_have_every_field_and_add_up(
    rigged: tuple[Client, dict[str, dict]], tetrahedron: bytes
) -> None:
    client, jobs = rigged
    path = f"/api/sessions/{client.session_id}/stats"
    before = client.http.get(path).json()
    client.uploaded(tetrahedron, "counted.obj")
    body = client.http.get(path).json()
    assert body["session_id"] == client.session_id
    assert body["total_jobs"] >= 3
    assert body["completed_jobs"] >= 3
    assert body["failed_jobs"] == 0
    assert body["pending_jobs"] == 0
    # Other tests use this client's session too.
    assert before["total_uploads"] >= 1
    assert body["total_uploads"] == before["total_uploads"] + 1
    sizes = [artifact["size"] for job in jobs.values() for artifact in job["artifacts"]]
    assert body["storage_used_mb"] >= sum(sizes) // 2**20
    for name in ("created_at", "last_activity"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body[name])
    assert body["created_at"] <= body["last_activity"]


def test_the_cookies_whole_value_names_the_session_too(client: Client, tetrahedron: bytes) -> None:
    path = client.uploaded(tetrahedron, "model.obj")
    stats = client.http.get(f"/api/sessions/{client.cookie}/stats")
    assert stats.json()["session_id"] == client.session_id
    job = client.job("skeleton", input_file=path.replace(client.session_id, client.cookie))
    assert job["input_file"] == path


def test_a_session_that_has_done_nothing_yet_has_empty_statistics(client: Client) -> None:
    response = client.http.get(f"/api/sessions/{client.session_id}/stats")
    assert response.status_code == 200
    assert response.json()["total_jobs"] == response.json()["total_uploads"] == 0


def test_another_sessions_statistics_and_deletion_are_forbidden(
    client: Client, other: Client
) -> None:
    path = f"/api/sessions/{other.session_id}"
    for response in (client.http.get(f"{path}/stats"), client.delete(path)):
        assert (response.status_code, response.json()["error_code"]) == (403, "FORBIDDEN")


def test_deleting_a_session_frees_its_files_and_ends_it(client: Client, tetrahedron: bytes) -> None:
    big = tetrahedron + b"# filler\n" * 150_000
    for _ in range(2):
        client.uploaded(big, "model.obj")
    cookie = client.cookie
    response = client.delete(f"/api/sessions/{client.session_id}")
    assert response.status_code == 200
    body = response.json()
    assert body["message"] == "Session deleted successfully"
    assert body["files_deleted"] == 2
    assert body["storage_freed_mb"] == pytest.approx(2 * len(big) / 2**20, abs=0.1)
    ended = httpx.get(f"{client.url}/api/jobs", cookies={"session_id": cookie})
    assert ended.status_code == 401


def test_deleting_a_session_takes_its_results(client: Client, tetrahedron: bytes) -> None:
    job = client.finished("skeleton", input_file=client.uploaded(tetrahedron, "model.obj"))
    result = job["output_file"]
    assert httpx.head(client.url + result).status_code == 200
    client.delete(f"/api/sessions/{client.session_id}")
    gone = httpx.get(client.url + result)
    assert (gone.status_code, gone.json()["error_code"]) == (404, "FILE_NOT_FOUND")
