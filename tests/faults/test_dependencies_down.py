"""A service behind the gateway is away: clear refusals at once, the rest works, and it recovers."""

import os
import signal
import time
from collections.abc import Iterator

import httpx
import pytest

from services.cli.servers import free_port
from services.cli.stack import Stack
from tests.e2e.conftest import TETRAHEDRON, Client
from tests.rate_limits import ROOMY

# A client that gives up after this long must have had its answer before, seconds.
PATIENCE = 15


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose services the tests may kill."""
    with Stack(tmp_path_factory.mktemp("down"), free_port(), settings=ROOMY) as stack:
        yield stack


@pytest.mark.parametrize(
    ("name", "refused", "served"),
    [
        (
            "sessions",
            ["GET token", "GET jobs", "GET stats", "POST upload", "POST job", "GET health"],
            ["GET space", "GET docs"],
        ),
        (
            "jobs",
            ["GET jobs", "GET job", "GET stats", "POST job", "POST cancel", "GET health"],
            ["GET token", "GET space", "POST upload", "GET docs"],
        ),
        (
            "storage",
            ["GET stats", "GET space", "GET result", "POST upload", "POST job", "GET health"],
            ["GET token", "GET jobs", "GET job", "GET docs"],
        ),
    ],
)
def test_what_needs_the_missing_service_is_refused_and_the_rest_is_served(
    fragile: Stack, name: str, refused: list[str], served: list[str]
) -> None:
    client = Client(fragile.url)
    path = client.uploaded(TETRAHEDRON, "model.obj")
    job = client.finished("skeleton", input_file=path)
    requests = {
        "GET token": {"url": "/api/csrf-token"},
        "GET health": {"url": "/api/health"},
        "GET jobs": {"url": "/api/jobs"},
        "GET job": {"url": f"/api/jobs/{job['job_id']}"},
        "GET stats": {"url": f"/api/sessions/{client.session_id}/stats"},
        "GET space": {"url": "/api/disk-space"},
        "GET docs": {"url": "/api/docs"},
        "GET result": {"url": job["output_file"] or f"/results/{client.session_id}/none.obj"},
        "POST upload": {"url": "/api/upload", "files": {"file": ("model.obj", TETRAHEDRON)}},
        "POST job": {"url": "/api/jobs/skeleton", "json": {"input_file": path}},
        "POST cancel": {"url": f"/api/jobs/{job['job_id']}/cancel"},
    }

    def ask(what: str) -> httpx.Response:
        method = what.split(" ")[0]
        headers = client.headers if method == "POST" else {}
        return client.http.request(method, headers=headers, timeout=PATIENCE, **requests[what])

    fragile.kill_service(name)
    for what in refused:
        response = ask(what)
        assert response.status_code == 503, (what, response.text)
        assert response.json()["error_code"] == "SERVICE_UNAVAILABLE"
        assert int(response.headers["retry-after"]) > 0
        assert "127.0.0.1" not in response.text
    for what in served:
        assert ask(what).status_code == 200, what
    fragile.start_service(name)
    fragile.wait_until_ready(name)
    deadline = time.monotonic() + 30
    while ask("GET health").status_code != 200:
        assert time.monotonic() < deadline, "the gateway does not find it again"
        time.sleep(0.1)
    for what in refused:
        if what != "POST cancel":
            assert ask(what).status_code in (200, 404), what


def test_health_and_documentation_do_not_wait_for_a_service_that_hangs(fragile: Stack) -> None:
    os.kill(fragile.pid_of("sessions"), signal.SIGSTOP)
    try:
        # Less than the deadline of two calls that run into it, one after the other, seconds.
        with httpx.Client(base_url=fragile.url, timeout=8) as http:
            health = http.get("/api/health")
            assert (health.status_code, health.headers["retry-after"]) == (503, "5")
            assert http.get("/api/docs").status_code == 200
    finally:
        os.kill(fragile.pid_of("sessions"), signal.SIGCONT)
    with httpx.Client(base_url=fragile.url, timeout=PATIENCE) as http:
        assert http.get("/api/health").status_code == 200
