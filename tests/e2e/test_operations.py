"""What an operator sees of every service: probes, metrics, gRPC health and reflection, logs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from services.cli.servers import free_port
from services.cli.stack import SERVICES, Stack
from tests.e2e.conftest import Client
from tests.e2e.test_websocket import events_until

GRPC = {
    "sessions": "unirig.v1.SessionsService",
    "jobs": "unirig.v1.JobsService",
    "storage": "unirig.v1.StorageService",
}
# What a name must end in so that its unit is known, or that it is a plain count of things.
UNITS = ("_seconds", "_bytes")
COUNTS = {
    "unirig_build_info",
    "unirig_jetstream_consumer_pending_messages",
    "unirig_jetstream_consumer_redelivered_messages",
    "unirig_jetstream_consumer_unacknowledged_messages",
    "unirig_jetstream_stream_messages",
    "unirig_jobs_active",
    "unirig_jobs_outbox_messages",
    "unirig_ready",
    "unirig_session_events_waiting",
    "unirig_storage_transfers_in_progress",
    "unirig_websocket_clients",
    "unirig_worker_busy",
    "unirig_worker_slots",
}


def environment_of(stack: Stack, name: str) -> dict[str, str]:
    """What the service was started with."""
    pairs = Path(f"/proc/{stack.pid_of(name)}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def metrics_url(stack: Stack, name: str) -> str:
    return f"http://127.0.0.1:{environment_of(stack, name)['METRICS_PORT']}"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_answers_probes(stack: Stack, name: str) -> None:
    base = metrics_url(stack, name)
    for probe in ("healthz", "readyz"):
        response = httpx.get(f"{base}/{probe}")
        assert (response.status_code, response.text) == (200, "ok\n")
    assert httpx.get(f"{base}/elsewhere").status_code == 404


@pytest.mark.usefixtures("rigged")
@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_metrics_named_as_prometheus_asks(stack: Stack, name: str) -> None:
    response = httpx.get(f"{metrics_url(stack, name)}/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = {
        family.name: family
        for family in text_string_to_metric_families(response.text)
        if family.name.startswith("unirig_") and not family.name.endswith("_created")
    }
    assert len(families) >= 4
    for family in families.values():
        assert family.documentation, family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
        elif family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples), (
                family.name
            )
        else:
            assert family.name.endswith(UNITS) or family.name in COUNTS


@pytest.mark.parametrize("name", GRPC)
def test_grpc_services_answer_health_checks_and_reflection(stack: Stack, name: str) -> None:
    address = f"127.0.0.1:{environment_of(stack, name)['GRPC_PORT']}"
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", GRPC[name]):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (listed,) = reflection.ServerReflectionInfo(iter([asked]), timeout=10)
        assert GRPC[name] in {each.name for each in listed.list_services_response.service}


def lines_of(stack: Stack, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stack.log_of(name).read_text().splitlines()]


@pytest.mark.usefixtures("rigged")
@pytest.mark.parametrize("name", SERVICES)
def test_every_line_of_every_log_is_json_with_its_service_level_and_time(
    stack: Stack, name: str
) -> None:
    lines = lines_of(stack, name)
    assert lines
    for line in lines:
        assert line["service"] == name
        assert line["timestamp"].endswith("Z")
        assert {"level", "event"} <= set(line)


def test_one_request_can_be_followed_through_every_log(
    stack: Stack, client: Client, tetrahedron: bytes
) -> None:
    headers = {**client.headers, "X-Request-ID": "followed-upload"}
    files = {"file": ("model.obj", tetrahedron)}
    path = client.http.post("/api/upload", headers=headers, files=files).json()["path"]
    headers["X-Request-ID"] = "followed-job"
    body = {"input_file": path}
    job_id = client.http.post("/api/jobs/skeleton", headers=headers, json=body).json()["job_id"]
    client.wait(job_id)

    def found(name: str, request_id: str) -> list[dict[str, Any]]:
        return [line for line in lines_of(stack, name) if line.get("request_id") == request_id]

    for name, request_id in (
        ("gateway", "followed-upload"),
        ("storage", "followed-upload"),
        ("gateway", "followed-job"),
        ("jobs", "followed-job"),
        ("inference", "followed-job"),
        ("storage", "followed-job"),
    ):
        lines = found(name, request_id)
        assert lines, f"{name} says nothing of {request_id}"
        assert {line.get("session_id") for line in lines} == {client.session_id}
    for name in ("jobs", "inference", "storage"):
        assert {line.get("job_id") for line in found(name, "followed-job")} == {job_id}
    stored = found("storage", "followed-job")
    assert {line["event"] for line in stored} == {"file stored"}
    assert {line["area"] for line in stored} == {"results"}


@pytest.fixture
def replica(stack: Stack, tmp_path: Path) -> Iterator[str]:
    """The URL of a second gateway in front of the same services."""
    port, metrics_port = free_port(), free_port()
    environment = environment_of(stack, "gateway")
    environment |= {"HTTP_PORT": str(port), "METRICS_PORT": str(metrics_port)}
    with (tmp_path / "replica.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.gateway"], env=environment, stdout=output
        )
    transport = httpx.HTTPTransport(retries=10)
    with httpx.Client(transport=transport) as http:
        assert http.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    yield f"http://127.0.0.1:{port}"
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 0


async def test_any_gateway_serves_any_session(
    client: Client, replica: str, tetrahedron: bytes
) -> None:
    path = client.uploaded(tetrahedron, "model.obj")
    cookie = {"Cookie": f"session_id={client.cookie}"}
    url = f"{replica.replace('http', 'ws')}/ws?session={client.session_id}"
    async with connect(url, additional_headers=cookie) as socket:
        job = client.job("skeleton", input_file=path)
        end = (await events_until(socket, "job_completed"))[-1]
    assert end["job_id"] == job["job_id"]
    async with httpx.AsyncClient(base_url=replica, headers=cookie) as elsewhere:
        shown = (await elsewhere.get(f"/api/jobs/{job['job_id']}")).json()
        assert shown["status"] == "completed"
        deleted = await elsewhere.delete(f"/api/jobs/{job['job_id']}", headers=client.headers)
        assert deleted.status_code == 200
    assert client.http.get(f"/api/jobs/{job['job_id']}").status_code == 404
