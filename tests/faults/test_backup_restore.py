"""NATS, Redis and storage are lost, and brought back from copies taken while work went on.

The copies are taken in the order and brought back in the way that docs/operations.md tells.
"""

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from services.cli.servers import LocalServer, free_port
from services.cli.stack import SERVICES, Stack
from tests.e2e.conftest import Client
from tests.job_services import figure_obj
from tests.rate_limits import ROOMY

# A job whose command is gone is looked at after twice this, seconds.
SETTINGS = {**ROOMY, "ACK_WAIT_SECONDS": "2", "SWEEP_SECONDS": "0.5"}


@dataclass
class Site:
    """A stack, its data, and the copies that are somewhere else."""

    data: Path
    copies: Path
    stack: Stack

    def copy_nats(self) -> None:
        """As a snapshot of the volume: all files as they are at one moment, in mid-work."""
        pid = self._server("nats").process.pid
        os.kill(pid, signal.SIGSTOP)
        shutil.copytree(self.data / "nats" / "jetstream", self.copies / "jetstream")
        os.kill(pid, signal.SIGCONT)

    def copy_redis(self) -> None:
        self._redis_cli("--rdb", str(self.copies / "redis.rdb"))

    def copy_storage(self) -> None:
        """File after file, while they come and go; not what has not arrived yet."""
        command = ["tar", "-C", self.data / "storage", "-cf", self.copies / "storage.tar"]
        subprocess.run([*command, "uploads", "results", "ended"], check=True)

    def copy_signing_keys(self) -> None:
        shutil.copy(self.data / "signing-keys", self.copies)

    def lose_everything(self) -> None:
        for name in SERVICES:
            self.stack.kill_service(name)
        for name in ("nats", "redis"):
            self._server(name).process.kill()
        self.stack.stop()
        shutil.rmtree(self.data)

    def restore(self) -> None:
        """Puts the copies in place and starts everything."""
        shutil.copytree(self.copies / "jetstream", self.data / "nats" / "jetstream")
        for name in ("redis", "storage"):
            (self.data / name).mkdir()
        # Redis takes it for an append-only file that ends with its first part.
        shutil.copy(self.copies / "redis.rdb", self.data / "redis" / "appendonly.aof")
        command = ["tar", "-C", self.data / "storage", "-xf", self.copies / "storage.tar"]
        subprocess.run(command, check=True)
        shutil.copy(self.copies / "signing-keys", self.data)
        self.stack.start()

    def ownerless(self) -> set[str]:
        """Sessions that have files and no record."""
        stored = {
            folder.name
            for area in ("uploads", "results")
            for folder in (self.data / "storage" / area).iterdir()
        }
        known = self._redis_cli("--raw", "zrange", "sessions:activity", "0", "-1")
        return stored - set(known.split())

    def client(self) -> "Owner":
        return Owner(self.stack.url)

    def _redis_cli(self, *arguments: str) -> str:
        port = str(urlsplit(self._server("redis").url).port)
        command = ["redis-cli", "-p", port, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def _server(self, name: str) -> LocalServer:
        return next(server for server in self.stack._servers if server.name == name)


class Owner(Client):
    """A session with one model."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.path = self.uploaded(figure_obj(), "hero.obj")

    def begin(self) -> str:
        return str(self.job("skeleton", input_file=self.path)["job_id"])

    def complete(self) -> dict[str, Any]:
        job = self.wait(self.begin())
        assert job["status"] == "completed", job
        return job

    def status(self, job_id: str) -> str:
        return str(self.http.get(f"/api/jobs/{job_id}").json()["status"])

    def listed(self) -> list[tuple[str, str]]:
        """The jobs' ids and states, newest first."""
        jobs = self.http.get("/api/jobs").json()["jobs"]
        return [(job["job_id"], job["status"]) for job in jobs]

    def checksums(self, job: dict[str, Any]) -> list[str]:
        answers = [self.http.get(artifact["path"]) for artifact in job["artifacts"]]
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        return [hashlib.sha256(answer.content).hexdigest() for answer in answers]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    copies = tmp_path / "copies"
    copies.mkdir()
    with Stack(tmp_path / "data", free_port(), settings=SETTINGS) as stack:
        yield Site(tmp_path / "data", copies, stack)


def runs(job: dict[str, Any]) -> bool:
    return bool(job["status"] == "running" and job["progress"] >= 5)


def test_all_that_was_there_at_the_time_of_the_copies_comes_back_and_goes_on(site: Site) -> None:
    done, running, waiting = (site.client() for _ in range(3))
    job = done.complete()
    checksums = done.checksums(job)
    run, wait = running.begin(), waiting.begin()
    running.wait(run, until=runs)
    assert waiting.status(wait) == "pending"

    site.copy_nats()
    site.copy_redis()
    site.copy_storage()
    site.copy_signing_keys()
    later = site.client()
    lost = later.begin()
    site.lose_everything()
    site.restore()

    # The old cookies and tokens are as good as before.
    assert done.http.get(f"/api/jobs/{job['job_id']}").json() == job
    assert done.listed() == [(job["job_id"], "completed")]
    assert done.checksums(job) == checksums
    assert running.wait(run)["status"] == "completed"
    assert waiting.wait(wait)["status"] == "completed"
    assert later.http.get(f"/api/jobs/{lost}").status_code == 404


def test_work_that_went_on_between_the_copies_ends_well_or_says_why_not(site: Site) -> None:
    ending, begun, queued, leaving = (site.client() for _ in range(4))
    left = leaving.complete()
    end = ending.begin()
    ending.wait(end, until=runs)

    site.copy_nats()
    ended = ending.wait(end)
    checksums = ending.checksums(ended)
    begin, queue = begun.begin(), queued.begin()
    begun.wait(begin, until=runs)
    assert queued.status(queue) == "pending"
    site.copy_redis()
    cookie = leaving.cookie
    assert leaving.delete(f"/api/sessions/{leaving.session_id}").status_code == 200
    arriving = site.client()
    site.copy_storage()
    site.copy_signing_keys()
    site.lose_everything()
    site.restore()

    # NATS still had its command, which runs no second time.
    assert ending.http.get(f"/api/jobs/{end}").json() == ended
    assert ending.checksums(ended) == checksums
    # NATS never had the commands of these two.
    assert queued.wait(queue)["status"] == "completed"
    failed = begun.wait(begin)
    assert (failed["status"], failed["error_code"]) == ("failed", "PROCESSING_FAILED")
    assert "Please try again" in failed["error"]
    begun.complete()
    # Deleted after Redis was copied and before its files were: the records are back, the files not.
    leaving.http.cookies.set("session_id", cookie)
    assert leaving.listed() == [(left["job_id"], "completed")]
    assert leaving.http.get(left["output_file"]).status_code == 404
    assert leaving.delete(f"/api/sessions/{leaving.session_id}").status_code == 200
    # Redis has never heard of it, but its cookie is good and its file is there.
    assert site.ownerless() == {arriving.session_id}
    arriving.begin()
    assert site.ownerless() == set()
