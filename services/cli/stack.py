"""The embedded stack: NATS, Redis and the five services as processes of this machine, and a Triton
server where the neural engine is wanted.

Everything that lasts is in one folder, so a stack that is started again goes on where it stopped:

    nats/  redis/  storage/   the data of the three that keep any
    scratch/                  the working files of running jobs
    logs/                     one file a service
    triton/                   Triton's back end and log
    signing-keys              what cookies and tokens are signed with, made at the first start
"""

import ctypes
import fcntl
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.cli.servers import LocalServer, ServerError, free_port, start_nats, start_redis
from services.cli.triton_server import TritonServer, start_triton

HOST = "127.0.0.1"
# In the order they start; they stop the other way round.
SERVICES = ("storage", "sessions", "jobs", "inference", "gateway")
_READY_SECONDS = 60
_STOP_SECONDS = 30
_PR_SET_PDEATHSIG = 1


@dataclass
class _Service:
    environment: dict[str, str]
    metrics_port: int
    process: "subprocess.Popen[bytes] | None" = None


class Stack:
    """One stack over one data folder. Use as a context manager, or start() and stop()."""

    def __init__(
        self,
        data: Path,
        port: int,
        host: str = HOST,
        settings: Mapping[str, str] | None = None,
        models: Path | None = None,
    ) -> None:
        """settings: environment variables for every service, over those of this process.

        models: the folder of UniRig's checkpoints. With it the engine is the neural one, and a
        Triton server runs; without it the engine is the geometric one.
        """
        self._data = data.resolve()
        self._port = port
        self._host = host
        self._settings = dict(settings or {})
        self._models = models.resolve() if models else None
        self.triton: TritonServer | None = None
        self._servers: list[LocalServer] = []
        self._services: dict[str, _Service] = {}
        self._lock: IO[bytes] | None = None
        self.url = f"http://{'localhost' if host in (HOST, '0.0.0.0') else host}:{port}"  # noqa: S104

    def __enter__(self) -> "Stack":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, report: Callable[[str], None] = lambda _: None) -> None:
        """Starts everything and waits until all of it is ready. ServerError says what failed."""
        try:
            self._claim_folder()
            nats = start_nats(self._data / "nats", free_port())
            self._servers.append(nats)
            redis = start_redis(self._data / "redis", free_port())
            self._servers.append(redis)
            report("nats and redis are up")
            if self._models:
                self.start_triton()
                report("triton is up")
            self._services = self._describe(nats.url, redis.url)
            for name in SERVICES:
                self.start_service(name)
            for name in SERVICES:
                self.wait_until_ready(name)
                report(f"{name} is ready")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops everything in order: no new requests first, the data last."""
        for name in reversed(SERVICES):
            if name in self._services:
                self.stop_service(name)
        if self.triton:
            self.triton.stop()
            self.triton = None
        while self._servers:
            self._servers.pop().stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def start_service(self, name: str) -> None:
        """Starts one service; its standard output and errors are appended to its log."""
        service = self._services[name]
        with self.log_of(name).open("ab") as output:
            service.process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", f"services.{name}"],
                env=service.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def start_triton(self) -> None:
        """Starts Triton, where it was before if it ran, and waits until it has tried its models."""
        self.triton = start_triton(
            self._data / "triton",
            {"UNIRIG_MODEL_FOLDER": str(self._models), **self._settings},
            address=self.triton.address if self.triton else None,
        )

    def triton_has_ended(self) -> bool:
        """Whether a Triton that was started has ended by itself."""
        return self.triton is not None and self.triton.process.poll() is not None

    def stop_service(self, name: str) -> int | None:
        """SIGTERM, and SIGKILL only where the service does not end in time. Its exit status, None
        where it was not started."""
        process = self._services[name].process
        if process is None:
            return None
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill_service(name)
        return process.returncode

    def kill_service(self, name: str) -> None:
        """SIGKILL, as a lost node would."""
        process = self._services[name].process
        if process is not None:
            process.kill()
            process.wait()

    def pid_of(self, name: str) -> int:
        """The process id of a service that was started."""
        process = self._services[name].process
        if process is None:
            raise ServerError(f"{name} was not started")
        return process.pid

    def ended_services(self) -> list[str]:
        """The services whose process has ended by itself."""
        return [
            name
            for name, service in self._services.items()
            if service.process is not None and service.process.poll() is not None
        ]

    def log_of(self, name: str) -> Path:
        """The service's log file."""
        return self._data / "logs" / f"{name}.log"

    def wait_until_ready(self, name: str) -> None:
        """Waits for the service's /readyz; ServerError with the log's end if it ends or hangs."""
        service = self._services[name]
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if service.process is None or service.process.poll() is not None:
                raise ServerError(f"{name} ended while starting:\n{self._log_tail(name)}")
            try:
                probe = f"http://{HOST}:{service.metrics_port}/readyz"
                with urllib.request.urlopen(probe, timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise ServerError(f"{name} is not ready:\n{self._log_tail(name)}")

    def _claim_folder(self) -> None:
        for folder in ("logs", "storage", "scratch"):
            (self._data / folder).mkdir(parents=True, exist_ok=True)
        self._lock = (self._data / ".lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServerError(
                f"another stack is running on {self._data}: stop it, or give DATA= another folder"
            ) from None

    def _signing_keys(self) -> str:
        path = self._data / "signing-keys"
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
        return path.read_text().strip()

    def _describe(self, nats_url: str, redis_url: str) -> dict[str, _Service]:
        grpc_ports = {name: free_port() for name in ("storage", "sessions", "jobs")}
        everywhere = {
            **os.environ,
            "BIND_HOST": HOST,
            "NATS_URL": nats_url,
            "REDIS_URL": redis_url,
            **{f"{name.upper()}_ADDRESS": f"{HOST}:{port}" for name, port in grpc_ports.items()},
            "STORAGE_FOLDER": str(self._data / "storage"),
            "SCRATCH_FOLDER": str(self._data / "scratch"),
            **self._engine(),
            **self._settings,
        }
        services = {}
        for name in SERVICES:
            metrics_port = free_port()
            environment = {**everywhere, "METRICS_PORT": str(metrics_port)}
            if name in grpc_ports:
                environment["GRPC_PORT"] = str(grpc_ports[name])
            if name == "sessions":
                environment["SIGNING_KEYS"] = self._signing_keys()
            if name == "gateway":
                environment |= {"HTTP_PORT": str(self._port), "BIND_HOST": self._host}
            services[name] = _Service(environment, metrics_port)
        return services

    def _engine(self) -> dict[str, str]:
        if self.triton is None:
            return {}
        return {
            "ENGINE": "unirig",
            "TRITON_ADDRESS": self.triton.address,
            "TRITON_SHARED_MEMORY": "true",
            # Triton decodes several skeletons at once.
            "CONCURRENCY": "2",
        }

    def _log_tail(self, name: str) -> str:
        return self.log_of(name).read_text(errors="replace")[-2000:]


def _die_with_parent() -> None:
    """Between fork and exec: a stack that is killed outright leaves no service behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
