"""The images' health command against a real metrics port."""

import os
import subprocess
import sys

import pytest

from services.cli.servers import free_port
from services.common.metrics import serve_metrics


def healthcheck(host: str, port: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "services.common.healthcheck"],
        env={**os.environ, "BIND_HOST": host, "METRICS_PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_service_that_lives_passes_even_before_it_is_ready(host: str) -> None:
    port = free_port()
    serve_metrics("gateway", host, port, is_ready=lambda: False)
    assert healthcheck(host, port).returncode == 0


def test_a_service_that_does_not_answer_fails_and_is_named() -> None:
    port = free_port()
    done = healthcheck("0.0.0.0", port)
    assert done.returncode == 1
    assert f"http://127.0.0.1:{port}/healthz" in done.stderr
