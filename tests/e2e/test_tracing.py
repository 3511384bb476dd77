"""One trace from an HTTP request to Triton, seen by a real collector; and what happens without."""

import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from services.cli.servers import free_port
from services.cli.stack import SERVICES, Stack
from services.inference.triton_client import SKELETON_MODEL
from tests.e2e.conftest import Client
from tests.job_services import figure_obj
from tests.otlp_collector import Collector, Span, collecting
from tests.rate_limits import ROOMY
from tests.tiny_unirig import LONG_TOKENS, tiny_settings, write_tiny_checkpoints

SHORT = {"seed": 7, "beams": 1, "max_joints": 20}
# What must stay out of spans and may be in none of them.
FILE_NAME = "private-figure"
SAID_BY_THE_CLIENT = "said-by-the-client"


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collecting(tmp_path_factory.mktemp("collector")) as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Stack]:
    """A stack with tiny networks in a real Triton, all of which send their spans."""
    checkpoints = write_tiny_checkpoints(tmp_path_factory.mktemp("models"))
    settings = {
        **ROOMY,
        **tiny_settings(checkpoints, LONG_TOKENS),
        "ACK_WAIT_SECONDS": "2",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "TRITON_TRACE_URL": collector.traces_url,
    }
    folder = tmp_path_factory.mktemp("traced")
    with Stack(folder, free_port(), settings=settings, models=checkpoints) as stack:
        yield stack


@pytest.fixture
def artist(traced: Stack) -> Iterator[Client]:
    client = Client(traced.url)
    yield client
    client.http.close()


class Caller:
    """A client that begins the trace itself."""

    def __init__(self, sampled: bool = True) -> None:
        self.trace_id, self.span_id = secrets.token_hex(16), secrets.token_hex(8)
        self.headers = {
            "traceparent": f"00-{self.trace_id}-{self.span_id}-{'01' if sampled else '00'}",
            "tracestate": f"vendor={SAID_BY_THE_CLIENT}",
            "baggage": f"user={SAID_BY_THE_CLIENT}",
        }

    def create(self, client: Client, **body: Any) -> str:
        """A skeleton job; its id."""
        headers = {**client.headers, **self.headers, "X-Request-ID": f"asked-{self.span_id}"}
        answer = client.http.post("/api/jobs/skeleton", headers=headers, json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["job_id"])


def lines(stack: Stack, name: str, **fields: str) -> list[dict[str, Any]]:
    """What a service has logged with these fields. A killed one leaves other lines, too."""
    text = stack.log_of(name).read_text()
    logged = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in logged if fields.items() <= line.items()]


def named(spans: list[Span], service: str) -> list[str]:
    return [span.name for span in spans if span.service == f"unirig-{service}"]


def orphans(spans: list[Span], caller: Caller) -> list[Span]:
    """Spans whose parent is missing. Triton may lose an InferRequest, the model's parent."""
    known = {span.span_id for span in spans} | {caller.span_id}
    return [span for span in spans if span.parent_id not in known and span.name != SKELETON_MODEL]


def test_a_job_is_one_trace_from_the_request_to_triton(
    traced: Stack, artist: Client, collector: Collector
) -> None:
    path = artist.uploaded(figure_obj(), f"{FILE_NAME}.obj")
    caller = Caller()
    cookie = {"Cookie": f"session_id={artist.cookie}"}
    events = f"{traced.url.replace('http', 'ws')}/ws?session={artist.session_id}"
    with connect(events, additional_headers=cookie):
        job_id = caller.create(artist, input_file=path, options=SHORT)
        done = artist.wait(job_id)
    assert done["status"] == "completed", done

    def spans() -> list[Span]:
        return collector.trace(caller.trace_id)

    collector.wait(lambda: "events.job.outcome" in named(spans(), "jobs"))
    collector.wait(lambda: "skeleton attempt" in named(spans(), "inference"))
    collector.wait(lambda: SKELETON_MODEL in named(spans(), "triton"))
    collector.wait(lambda: not orphans(spans(), caller))
    assert [span.name for span in spans() if span.parent_id == caller.span_id] == [
        "POST /api/jobs/skeleton"
    ]
    assert named(spans(), "sessions") == ["unirig.v1.SessionsService/Authorize"]
    assert "unirig.v1.JobsService/CreateJob" in named(spans(), "jobs")
    assert "claim" in named(spans(), "jobs")
    # To the WebSocket, when it began and when it ended.
    assert named(spans(), "gateway").count("notify") >= 2
    assert "unirig.v1.StorageService/GetFile" in named(spans(), "storage")
    assert "unirig.v1.StorageService/PutFile" in named(spans(), "storage")
    assert {"fetch", "read", "infer unirig_skeleton", "write fbx", "save"} <= set(
        named(spans(), "inference")
    )
    names = {span.span_id: span.name for span in spans()}
    attempt = next(span for span in spans() if span.name == "skeleton attempt")
    assert names[attempt.parent_id] == "unirig.v1.JobsService/CreateJob"
    assert attempt.attributes["unirig.job_id"] == job_id
    assert not [span for span in spans() if span.failed]
    versions = {s.attributes.get("service.version") for s in spans() if "triton" not in s.service}
    assert versions == {version("unirig-service")}

    for name in ("gateway", "jobs", "inference", "storage"):
        found = lines(traced, name, request_id=f"asked-{caller.span_id}")
        assert found
        assert {line["trace_id"] for line in found} == {caller.trace_id}
        logged = {line["span_id"] for line in found}
        collector.wait(lambda logged=logged: logged <= {span.span_id for span in spans()})


def test_a_request_without_a_trace_begins_one(artist: Client, collector: Collector) -> None:
    path = artist.uploaded(figure_obj(), f"{FILE_NAME}.obj")
    job_id = artist.finished("skeleton", input_file=path, options=SHORT)["job_id"]

    def attempts() -> list[Span]:
        return [span for span in collector.spans if span.attributes.get("unirig.job_id") == job_id]

    collector.wait(attempts)
    (attempt,) = attempts()
    collector.wait(lambda: SKELETON_MODEL in named(collector.trace(attempt.trace_id), "triton"))
    first = [span.name for span in collector.trace(attempt.trace_id) if not span.parent_id]
    assert first == ["POST /api/jobs/skeleton"]


def test_a_refused_request_says_so_in_its_trace(artist: Client, collector: Collector) -> None:
    caller = Caller()
    headers = {**artist.headers, **caller.headers}
    body = {"input_file": f"/uploads/{artist.session_id}/none.obj"}
    assert artist.http.post("/api/jobs/skeleton", headers=headers, json=body).status_code == 404
    collector.wait(
        lambda: named(collector.trace(caller.trace_id), "gateway").count("POST /api/jobs/skeleton")
    )
    spans = collector.trace(caller.trace_id)
    request = next(span for span in spans if span.parent_id == caller.span_id)
    assert request.attributes["http.response.status_code"] == 404
    assert not request.failed  # the client's fault
    (call,) = [
        span
        for span in spans
        if span.service == "unirig-gateway" and span.name.endswith("/StatFile")
    ]
    assert call.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert call.failed


def test_a_job_whose_worker_is_killed_goes_on_in_its_trace(
    traced: Stack, artist: Client, collector: Collector
) -> None:
    caller = Caller()
    path = artist.uploaded(figure_obj(), f"{FILE_NAME}.obj")
    job_id = caller.create(artist, input_file=path, options={**SHORT, "max_joints": 60})
    artist.wait(job_id, until=lambda job: job["progress"] >= 35)
    traced.kill_service("inference")
    traced.start_service("inference")
    assert artist.wait(job_id)["status"] == "completed"

    def attempts() -> list[Span]:
        spans = collector.trace(caller.trace_id)
        return [span for span in spans if span.name == "skeleton attempt"]

    collector.wait(attempts)
    # The first one's span died with its worker.
    assert [span.attributes["unirig.attempt"] for span in attempts()] == [2]


def test_what_a_client_asks_not_to_be_kept_has_ids_in_the_logs_alone(
    traced: Stack, artist: Client, collector: Collector
) -> None:
    path = artist.uploaded(figure_obj(), f"{FILE_NAME}.obj")
    caller = Caller(sampled=False)
    job_id = caller.create(artist, input_file=path, options=SHORT)
    assert artist.wait(job_id)["status"] == "completed"
    for name in ("gateway", "jobs", "inference", "storage"):
        assert lines(traced, name, trace_id=caller.trace_id)
    # A request after it has come through every service, so what there was of it has, too.
    kept = Caller()
    artist.wait(kept.create(artist, input_file=path, options=SHORT))
    collector.wait(lambda: SKELETON_MODEL in named(collector.trace(kept.trace_id), "triton"))
    assert collector.trace(caller.trace_id) == []


def test_spans_have_nothing_of_what_is_private(
    traced: Stack, artist: Client, collector: Collector
) -> None:
    path = artist.uploaded(figure_obj(), f"{FILE_NAME}.obj")
    job = artist.finished("skeleton", input_file=path, options=SHORT)
    assert artist.http.get(job["output_file"]).status_code == 200
    artist.http.get(f"/api/sessions/{artist.session_id}?secret={SAID_BY_THE_CLIENT}")
    artist.http.get("/nowhere/private-path")
    route = "GET /results/{session_id}/{filename:path}"
    collector.wait(lambda: route in named(collector.spans, "gateway"))
    collector.wait(lambda: "GET none" in named(collector.spans, "gateway"))
    private = {
        FILE_NAME,
        SAID_BY_THE_CLIENT,
        "private-path",
        artist.session_id,
        artist.cookie,
        artist.token,
    }
    shown = [repr(span) for span in collector.spans]
    assert not [text for text in shown if any(word in text for word in private)]


def test_tritons_spans_are_within_the_workers_calls(artist: Client, collector: Collector) -> None:
    path = artist.uploaded(figure_obj(), f"{FILE_NAME}.obj")
    # One is likely to be there from the tests above.
    for _ in range(5):
        if any(span.name == "InferRequest" for span in collector.spans):
            break
        artist.finished("skeleton", input_file=path, options=SHORT)

    def callers() -> set[str]:
        names = {span.span_id: span.name for span in collector.spans}
        requests = [span for span in collector.spans if span.name == "InferRequest"]
        return {names.get(span.parent_id, "") for span in requests}

    collector.wait(lambda: "infer unirig_skeleton" in callers())
    # "": an attempt that was killed, whose call is lost with it.
    assert callers() <= {"infer unirig_skeleton", ""}


def test_probes_make_no_spans(traced: Stack, artist: Client, collector: Collector) -> None:
    for probe in ("/healthz", "/readyz"):
        assert artist.http.get(probe).status_code == 200
    caller = Caller()
    artist.http.get("/api/jobs", headers=caller.headers)
    collector.wait(lambda: "GET /api/jobs" in named(collector.trace(caller.trace_id), "gateway"))
    assert not [span for span in collector.spans if "health" in span.name.lower()]
    assert not [span for span in collector.spans if "readyz" in span.name]


def test_without_a_collector_only_the_logs_have_the_trace(
    stack: Stack, client: Client, tetrahedron: bytes
) -> None:
    path = client.uploaded(tetrahedron, "model.obj")
    caller = Caller()
    client.wait(caller.create(client, input_file=path))
    for name in ("gateway", "jobs", "inference", "storage"):
        assert lines(stack, name, trace_id=caller.trace_id)
    for name in SERVICES:
        assert "opentelemetry" not in stack.log_of(name).read_text()


@pytest.mark.parametrize("fault", ["refuses", "is silent"])
def test_a_collector_that_is_away_disturbs_neither_a_job_nor_the_end(
    tmp_path: Path, fault: str, tetrahedron: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = free_port() if fault == "refuses" else silent.getsockname()[1]
        settings = {
            **ROOMY,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with Stack(tmp_path / "data", free_port(), settings=settings) as stack:
            client = Client(stack.url)
            job = client.finished("skeleton", input_file=client.uploaded(tetrahedron, "m.obj"))
            assert job["status"] == "completed", job
            for name in SERVICES:
                os.kill(stack.pid_of(name), signal.SIGTERM)
            # What a pod has beyond its own grace, seconds.
            deadline = time.monotonic() + 10
            while len(stack.ended_services()) < len(SERVICES):
                assert time.monotonic() < deadline, stack.ended_services()
                time.sleep(0.05)
            assert {stack.stop_service(name) for name in SERVICES} == {0}
        for name in SERVICES:
            said = [line for line in lines(stack, name) if "opentelemetry" in line["logger"]]
            assert len(said) <= 1, said
