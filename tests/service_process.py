"""A service as a process of its own, as tests start, probe, stop and kill it."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from services.cli.servers import free_port

HOST = "127.0.0.1"


@dataclass
class ServiceProcess:
    """python -m services.NAME, with the environment given."""

    name: str
    environment: dict[str, str]
    log: Path
    metrics_port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, preexec_fn: Callable[[], None] | None = None) -> Self:
        """Starts it and waits until it is ready."""
        process = self.spawn(preexec_fn)
        deadline = time.monotonic() + 60
        while not self.is_ready():
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return self

    def spawn(self, preexec_fn: Callable[[], None] | None = None) -> "subprocess.Popen[bytes]":
        """Starts it."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"services.{self.name}"],
                env={
                    **os.environ,
                    "BIND_HOST": HOST,
                    "METRICS_PORT": str(self.metrics_port),
                    **self.environment,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=preexec_fn,
            )
        return self.process

    def is_ready(self) -> bool:
        return self.probe("/readyz") == 200

    def probe(self, path: str) -> int:
        """The HTTP status of the metrics port's answer, 0 for none."""
        try:
            with urllib.request.urlopen(self._url(path), timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metrics(self) -> str:
        """What Prometheus would read; empty where nothing answers."""
        try:
            with urllib.request.urlopen(self._url("/metrics"), timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _url(self, path: str) -> str:
        return f"http://{HOST}:{self.metrics_port}{path}"

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)
