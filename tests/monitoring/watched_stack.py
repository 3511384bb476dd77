"""A whole stack with a Triton server, a real Prometheus that reads it, and some use of both."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import redis
from websockets.sync.client import connect

from services.cli.servers import free_port
from services.cli.stack import SERVICES, Stack
from tests.chart.conftest import COMBINATIONS
from tests.chart.helm_program import install_helm
from tests.chart.manifest_checks import of_kind
from tests.e2e.conftest import TETRAHEDRON, Client
from tests.e2e.test_operations import environment_of
from tests.job_services import figure_obj
from tests.monitoring import gpu_metrics
from tests.monitoring.prometheus_server import PrometheusServer, prometheus_reading
from tests.monitoring.scrape_config import scrape_configs
from tests.rate_limits import ROOMY
from tests.tiny_unirig import tiny_settings, write_tiny_checkpoints

# Of one session: what use() needs, and no more.
UPLOADS_PER_HOUR = 4
# A face without an area: it can be read, and not rigged.
_NOTHING_TO_RIG = b"v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n"


@dataclass(frozen=True)
class WatchedStack:
    stack: Stack
    prometheus: PrometheusServer
    # When all was read last, Unix seconds.
    seen_at: float

    def address_of(self, component: str) -> str:
        """host:port of its metrics."""
        return metrics_addresses(self.stack)[component]


def metrics_addresses(stack: Stack) -> dict[str, str]:
    assert stack.triton is not None
    services = {
        name: f"127.0.0.1:{environment_of(stack, name)['METRICS_PORT']}" for name in SERVICES
    }
    return {**services, "triton": stack.triton.metrics_url.split("/")[2]}


@contextmanager
def watched_stack(folder: Path, uploads_per_hour: int = UPLOADS_PER_HOUR) -> Iterator[WatchedStack]:
    """Read as the chart's ServiceMonitors say, with the rules of its PrometheusRule."""
    manifests = install_helm("4.1").template(*COMBINATIONS["gpu-keda"])
    (rules,) = of_kind(manifests, "PrometheusRule")
    models = write_tiny_checkpoints(folder / "models")
    settings = {
        **ROOMY,
        **tiny_settings(models),
        "RATE_LIMIT_UPLOADS_PER_HOUR": str(uploads_per_hour),
    }
    with (
        Stack(folder / "stack", free_port(), settings=settings, models=models) as stack,
        gpu_metrics.served() as exporter,
    ):
        _limit_redis(stack)
        targets = scrape_configs(manifests, metrics_addresses(stack))
        targets.append(gpu_metrics.scrape_config(exporter))
        with prometheus_reading(targets, rules["spec"], folder) as prometheus:
            yield WatchedStack(stack, prometheus, prometheus.wait_for_scrapes())


def _limit_redis(stack: Stack) -> None:
    """As the chart's configuration does."""
    with redis.Redis.from_url(environment_of(stack, "jobs")["REDIS_URL"]) as client:
        client.config_set("maxmemory", "1gb")


def use(stack: Stack, uploads_per_hour: int = UPLOADS_PER_HOUR) -> None:
    """One whole rig while a WebSocket is open, and of each kind of trouble one.

    uploads_per_hour: the stack's limit.
    """
    _do_without_sessions(stack)
    client = Client(stack.url)
    path = client.uploaded(figure_obj(), "figure.obj")
    with event_stream(stack, client):
        skeleton = _completed(client, "skeleton", input_file=path)
        skinning = _completed(client, "skinning", input_file=skeleton["output_file"])
        files = {
            "skeleton_file": skeleton["output_file"],
            "skinning_file": skinning["output_file"],
        }
        merge = _completed(client, "merge", **files, output_format="glb")
    assert client.http.get(merge["output_file"]).status_code == 200
    failed = client.finished("skeleton", input_file=client.uploaded(_NOTHING_TO_RIG, "none.obj"))
    assert failed["status"] == "failed", failed
    cancelled = client.job("skeleton", input_file=path)
    client.post(f"/api/jobs/{cancelled['job_id']}/cancel")
    assert client.http.get("/api/jobs/00000000-0000-0000-0000-000000000000").status_code == 404
    _be_refused(stack, uploads_per_hour)
    client.delete(f"/api/sessions/{client.session_id}")
    client.http.close()


@contextmanager
def event_stream(stack: Stack, client: Client) -> Iterator[None]:
    """A WebSocket that is open while the context lasts."""
    address = f"{stack.url.replace('http', 'ws', 1)}/ws?session={client.session_id}"
    cookie = {"Cookie": f"session_id={client.cookie}"}
    # Nobody reads the events, and pings must not wait behind them.
    with connect(address, additional_headers=cookie, max_queue=None):
        yield


def _completed(client: Client, kind: str, **request: Any) -> dict[str, Any]:
    job = client.finished(kind, **request)
    assert job["status"] == "completed", job
    return job


def _be_refused(stack: Stack, uploads_per_hour: int) -> None:
    """For a wrong file, and for one upload too many."""
    client = Client(stack.url)
    assert client.upload(b"no model", "model.obj").status_code == 400
    answers = [client.upload(TETRAHEDRON, "model.obj") for _ in range(uploads_per_hour)]
    assert answers[-1].status_code == 429
    client.http.close()


def _do_without_sessions(stack: Stack) -> None:
    stack.stop_service("sessions")
    url = f"{stack.url}/api/csrf-token"
    assert httpx.get(url, timeout=60).status_code == 503
    stack.start_service("sessions")
    stack.wait_until_ready("sessions")
    # Then the gateway has to find it again.
    deadline = time.monotonic() + 60
    while httpx.get(url, timeout=60).status_code != 200:
        assert time.monotonic() < deadline, "the gateway does without sessions"
        time.sleep(0.1)
