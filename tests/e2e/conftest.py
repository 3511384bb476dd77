"""One running stack for all end-to-end tests, and clients that behave as the reference's do."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.character import write_character
from services.cli.servers import free_port
from services.cli.stack import Stack
from tests.rate_limits import ROOMY


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The five services with real NATS and Redis, as `make up` starts them."""
    with Stack(tmp_path_factory.mktemp("stack"), free_port(), settings=ROOMY) as stack:
        yield stack


@pytest.fixture(scope="session")
def character(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example character as an OBJ named as in the reference."""
    path = tmp_path_factory.mktemp("character") / "character.obj"
    write_character(path)
    return path


class Client:
    """One session of a client that keeps cookies, with its CSRF token at hand."""

    def __init__(self, url: str, **options: Any) -> None:
        """options: httpx's."""
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=60, **options)
        self.token = self.http.get("/api/csrf-token").json()["csrf_token"]
        self.headers = {"X-CSRF-Token": self.token}

    @property
    def cookie(self) -> str:
        """The session cookie's whole value."""
        return self.http.cookies["session_id"]

    @property
    def session_id(self) -> str:
        """The session's public id."""
        return self.cookie.partition(".")[0]

    def post(self, path: str, **content: Any) -> httpx.Response:
        return self.http.post(path, headers=self.headers, **content)

    def delete(self, path: str) -> httpx.Response:
        return self.http.delete(path, headers=self.headers)

    def upload(self, content: bytes | Path, name: str | None = None) -> httpx.Response:
        if isinstance(content, Path):
            name, content = name or content.name, content.read_bytes()
        return self.post("/api/upload", files={"file": (name, content)})

    def uploaded(self, content: bytes | Path, name: str | None = None) -> str:
        """Uploads and returns the path."""
        response = self.upload(content, name)
        assert response.status_code == 200, response.text
        return str(response.json()["path"])

    def job(self, kind: str, **request: Any) -> dict[str, Any]:
        """Creates a job and returns it."""
        response = self.post(f"/api/jobs/{kind}", json=request)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def finished(self, kind: str, **request: Any) -> dict[str, Any]:
        """Creates a job and waits for its end."""
        return self.wait(self.job(kind, **request)["job_id"])

    def wait(
        self,
        job_id: str,
        until: Callable[[dict[str, Any]], bool] = lambda job: (
            job["status"] in ("completed", "failed", "cancelled")
        ),
        seconds: float = 240,
    ) -> dict[str, Any]:
        """Polls the job until it is as wanted."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.http.get(f"/api/jobs/{job_id}").json()
            if until(job):
                return dict(job)
            time.sleep(0.1)
        pytest.fail(f"the job is still {job}")


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    """A client with a session of its own."""
    client = Client(stack.url)
    yield client
    client.http.close()


@pytest.fixture
def other(stack: Stack) -> Iterator[Client]:
    """Somebody else."""
    client = Client(stack.url)
    yield client
    client.http.close()


TETRAHEDRON = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


@pytest.fixture
def tetrahedron() -> bytes:
    """The smallest solid, as an OBJ."""
    return TETRAHEDRON


@pytest.fixture(scope="session")
def rigged(stack: Stack, character: Path) -> Iterator[tuple[Client, dict[str, dict[str, Any]]]]:
    """A client whose example character went through the whole job, and the three jobs by type."""
    client = Client(stack.url)
    skeleton = client.finished("skeleton", input_file=client.uploaded(character))
    assert skeleton["status"] == "completed", skeleton
    skinning = client.finished("skinning", input_file=skeleton["output_file"])
    assert skinning["status"] == "completed", skinning
    merge = client.finished(
        "merge",
        skeleton_file=skeleton["output_file"],
        skinning_file=skinning["output_file"],
        output_format="fbx",
    )
    assert merge["status"] == "completed", merge
    yield client, {"skeleton": skeleton, "skinning": skinning, "merge": merge}
    client.http.close()
