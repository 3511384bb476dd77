"""A service that is killed and started again loses no accepted upload and no job."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from services.cli.character import write_character
from services.cli.servers import free_port
from services.cli.stack import SERVICES, Stack
from tests.e2e.conftest import Client
from tests.rate_limits import ROOMY


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose services the tests may kill."""
    with Stack(tmp_path_factory.mktemp("fragile"), free_port(), settings=ROOMY) as stack:
        yield stack


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "character.glb"
    write_character(path)
    return path


def patient_get(client: Client, path: str, seconds: float = 30) -> httpx.Response:
    """GETs until the answer is not a lost connection or a 503: a service is coming back."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            response = client.http.get(path)
            if response.status_code != 503:
                return response
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"{path} does not come back"
        time.sleep(0.2)


@pytest.mark.parametrize("name", SERVICES)
def test_killing_a_service_in_mid_job_loses_nothing(fragile: Stack, model: Path, name: str) -> None:
    client = Client(fragile.url)
    path = client.uploaded(model)
    job = client.job("skeleton", input_file=path)
    client.wait(job["job_id"], until=lambda now: now["progress"] > 5)
    fragile.kill_service(name)
    fragile.start_service(name)
    fragile.wait_until_ready(name)
    deadline = time.monotonic() + 200
    now = patient_get(client, f"/api/jobs/{job['job_id']}").json()
    while now["status"] in ("pending", "running") and time.monotonic() < deadline:
        time.sleep(0.3)
        now = patient_get(client, f"/api/jobs/{job['job_id']}").json()
    assert now["status"] == "completed", now
    for artifact in now["artifacts"]:
        content = patient_get(client, artifact["path"]).content
        assert len(content) == artifact["size"]
    # The upload is still there, and the session takes the next job.
    skinning = client.finished("skinning", input_file=now["output_file"])
    assert skinning["status"] == "completed", skinning


def test_a_stack_that_is_started_again_remembers_everything(tmp_path: Path, model: Path) -> None:
    port = free_port()
    with Stack(tmp_path, port, settings=ROOMY) as stack:
        client = Client(stack.url)
        done = client.finished("skeleton", input_file=client.uploaded(model))
        waiting = client.job("skinning", input_file=done["output_file"])
    with Stack(tmp_path, port, settings=ROOMY):
        assert client.http.get(f"/api/jobs/{done['job_id']}").json() == done
        assert client.http.get(done["output_file"]).status_code == 200
        assert client.wait(waiting["job_id"])["status"] == "completed"


def test_nothing_is_left_running_when_a_stack_stops(tmp_path: Path) -> None:
    with Stack(tmp_path, free_port(), settings=ROOMY) as stack:
        pids = [stack.pid_of(name) for name in SERVICES]
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    holders = [
        process
        for process in Path("/proc").glob("[0-9]*/cmdline")
        if str(tmp_path).encode() in _read(process)
    ]
    assert holders == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
