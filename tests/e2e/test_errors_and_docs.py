"""Health, disk space, the standard error body, and the documentation."""

import re
from pathlib import Path

import httpx
import pytest

from services.cli.stack import Stack
from tests.e2e.conftest import Client

REFERENCE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def test_health(stack: Stack) -> None:
    response = httpx.get(f"{stack.url}/api/health")
    assert response.status_code == 200
    body = response.json()
    assert body["status"] == "healthy"
    assert TIME.fullmatch(body["timestamp"])
    assert body["version"] == "1.0.0"


def test_disk_space(client: Client) -> None:
    body = client.http.get("/api/disk-space").json()
    assert set(body) == {
        "total",
        "used",
        "free",
        "percent_used",
        "status",
        "warning_threshold_gb",
        "critical_threshold_gb",
    }
    assert body["total"] >= body["used"] + body["free"] > 0
    assert 0 <= body["percent_used"] <= 100
    assert (body["warning_threshold_gb"], body["critical_threshold_gb"]) == (10, 5)
    free = body["free"] / 2**30
    assert body["status"] == ("ok" if free > 10 else "warning" if free >= 5 else "critical")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/nowhere", 404, "NOT_FOUND"),
        ("GET", "/nowhere", 404, "NOT_FOUND"),
        ("PUT", "/api/jobs", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/api/jobs/none", 404, "JOB_NOT_FOUND"),
        ("GET", "/api/jobs?limit=none", 400, "INVALID_REQUEST"),
        ("GET", f"/results/{'0' * 32}/none.fbx", 404, "FILE_NOT_FOUND"),
        ("GET", f"/api/sessions/{'0' * 32}/stats", 403, "FORBIDDEN"),
        ("POST", "/api/upload", 403, "CSRF_TOKEN_MISSING"),
    ],
)
def test_every_error_has_the_standard_body(
    client: Client, method: str, path: str, status: int, code: str
) -> None:
    response = client.http.request(method, path)
    assert response.status_code == status
    body = response.json()
    assert body["error_code"] == code
    assert isinstance(body["detail"], str)
    assert body["detail"]
    assert TIME.fullmatch(body["timestamp"])


@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_the_documentation_needs_no_internet(stack: Stack, page: str) -> None:
    response = httpx.get(f"{stack.url}/api/{page}", follow_redirects=True)
    assert response.status_code == 200
    sources = re.findall(r"""(?:src|href)=["']([^"']+)["']""", response.text)
    assets = [source for source in sources if not source.startswith(("#", "data:"))]
    assert assets
    for asset in assets:
        assert asset.startswith("/"), f"{asset} is not ours"
        assert httpx.get(stack.url + asset).status_code == 200
    assert not re.search(r"https?://(?!localhost|127)[\w.]*(cdn|jsdelivr|unpkg|googleapis)",
                         response.text)  # fmt: skip


def test_the_openapi_document_has_every_endpoint_of_the_reference(stack: Stack) -> None:
    document = httpx.get(f"{stack.url}/api/openapi.json").json()
    shown = set(re.findall(r"```http\n(GET|POST|DELETE) (/\S+)", REFERENCE))
    assert len(shown) >= 13
    for method, path in shown:
        assert method.lower() in document["paths"][path], path


def test_the_openapi_document_has_every_error_code_and_header(stack: Stack) -> None:
    text = httpx.get(f"{stack.url}/api/openapi.json").text
    for code in re.findall(r"^\| `([A-Z_]+)` \|", REFERENCE, re.MULTILINE):
        assert code in text
    for header in ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"):
        assert header in text
    for example in ("/uploads/session123/model.obj", "a1b2c3d4e5f6", "job-uuid-1234"):
        assert example in text


def test_a_request_id_is_echoed_and_secrets_stay_out_of_the_logs(
    stack: Stack, client: Client, tetrahedron: bytes
) -> None:
    client.uploaded(tetrahedron, "model.obj")
    response = client.http.get("/api/jobs", headers={"X-Request-ID": "my-own-id-1"})
    assert response.headers["x-request-id"] == "my-own-id-1"
    client.http.get(f"/api/sessions/{client.cookie}/stats")
    secret = client.cookie.partition(".")[2]
    for service in ("gateway", "sessions", "jobs", "storage", "inference"):
        log = stack.log_of(service).read_text()
        assert secret not in log
        assert client.token not in log
    assert "my-own-id-1" in stack.log_of("gateway").read_text()
