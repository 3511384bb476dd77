"""What a stranger's tools try: HEAD, wrong methods, slashes, WebSockets where there are none."""

import json

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from services.cli.stack import Stack
from tests.e2e.conftest import Client


@pytest.mark.parametrize(
    "path",
    ["/", "/healthz", "/api/health", "/api/docs", "/api/redoc", "/api/openapi.json", "/api/jobs"],
)
def test_head_is_get_without_the_body(client: Client, path: str) -> None:
    got, head = client.http.get(path), client.http.head(path)
    assert head.status_code == got.status_code == 200
    assert head.content == b""
    for name in ("content-type", "content-length"):
        assert head.headers[name] == got.headers[name]


def test_head_is_refused_as_get_is(client: Client) -> None:
    for path, status in (("/api/jobs/none", 404), ("/api/nowhere", 404), ("/api/upload", 405)):
        head = client.http.head(path)
        assert (head.status_code, head.content) == (status, b"")
        assert "x-ratelimit-limit" in head.headers


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/jobs", "GET, HEAD"),
        ("PUT", "/api/jobs/some-job", "GET, HEAD, DELETE"),
        ("GET", "/api/jobs/some-job/cancel", "POST"),
        ("GET", "/api/upload", "POST"),
        ("POST", "/api/sessions/some-session", "DELETE"),
        ("POST", "/results/some-session/file.fbx", "GET, HEAD"),
        ("POST", "/api/docs/assets/swagger-ui.css", "GET, HEAD"),
        ("OPTIONS", "/api/health", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_every_right_one(
    client: Client, method: str, path: str, allow: str
) -> None:
    response = client.http.request(method, path)
    assert (response.status_code, response.json()["error_code"]) == (405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize(
    "path", ["/api/jobs/", "/api/upload/", "/api/docs/", "/api/", "//api/jobs"]
)
def test_a_path_with_a_slash_too_many_is_not_found(client: Client, path: str) -> None:
    response = client.http.get(client.url + path)
    assert (response.status_code, response.json()["error_code"]) == (404, "NOT_FOUND")


def test_plain_http_on_the_websocket_is_told_what_it_is(stack: Stack) -> None:
    response = httpx.get(f"{stack.url}/ws?session=x")
    assert (response.status_code, response.json()["error_code"]) == (400, "INVALID_REQUEST")
    assert "WebSocket" in response.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-WebSocket-Version": "12", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
        {"Sec-WebSocket-Version": "13"},
        {},
    ],
)
def test_a_websocket_of_another_version_is_told_which_is_spoken(
    stack: Stack, headers: dict[str, str]
) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", **headers}
    response = httpx.get(f"{stack.url}/ws?session=x", headers=upgrade)
    assert (response.status_code, response.json()["error_code"]) == (400, "INVALID_REQUEST")
    assert response.headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize("path", ["/", "/wsx", "/ws/", "/api/health", "/results/a/b"])
async def test_a_websocket_elsewhere_is_not_found(stack: Stack, path: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        await connect(stack.url.replace("http", "ws") + path).__aenter__()
    response = refusal.value.response
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/json"
    body = json.loads(response.body)
    assert body["error_code"] == "NOT_FOUND"
    assert set(body) == {"detail", "error_code", "timestamp"}


def test_errors_are_json_and_name_no_internals(client: Client) -> None:
    for method, path, content in (
        ("GET", "/api/jobs?limit=x", b""),
        ("POST", "/api/jobs/skeleton", b"{"),
        ("POST", "/api/upload", b"x"),
        ("DELETE", "/api/jobs/none", b""),
        ("GET", "/results/x/y", b""),
    ):
        response = client.http.request(method, path, headers=client.headers, content=content)
        assert 400 <= response.status_code < 500
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-request-id"]
        for internal in ("127.0.0.1", "Traceback", "grpc", "redis", "services/"):
            assert internal not in response.text


def test_the_page_sizes_ends_are_taken(client: Client) -> None:
    for limit in (1, 200):
        response = client.http.get("/api/jobs", params={"limit": limit})
        assert (response.status_code, response.json()["limit"]) == (200, limit)
