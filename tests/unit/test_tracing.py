"""What a process passes on of a trace. Each test is a process: it has one tracer for its life."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from services.common.tracing import message_span, span, trace_headers
from services.jobs.outbox_message import OutboxMessage, decode, encode

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"

PROGRAM = """
import json, sys, threading
import structlog
from services.common.logs import configure_logs
from services.common.tracing import request_span, span, trace_headers, tracing

configure_logs("test", "INFO")
with tracing("test"):
    with request_span("GET", {}, json.loads(sys.argv[1])):
        with span("step"):
            structlog.get_logger().info("inside", passed_on=trace_headers())
    structlog.get_logger().info(
        "outside",
        passed_on=trace_headers(),
        threads=[thread.name for thread in threading.enumerate()],
    )
"""


def run(headers: dict[str, str], **environment: str) -> list[dict[str, Any]]:
    """What a process logs that answers a request with these headers."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(headers)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def is_sampled(flags: str) -> bool:
    return int(flags, 16) % 2 == 1


def test_without_an_endpoint_there_are_ids_but_nothing_that_sends() -> None:
    inside, outside = run({}, OTEL_EXPORTER_OTLP_ENDPOINT="")
    version, trace_id, span_id, flags = inside["passed_on"]["traceparent"].split("-")
    assert version == "00"
    assert is_sampled(flags)
    assert (inside["trace_id"], inside["span_id"]) == (trace_id, span_id)
    assert "trace_id" not in outside
    assert outside["passed_on"] == {}
    assert outside["threads"] == ["MainThread"]


def test_with_an_endpoint_there_is_something_that_sends() -> None:
    _, outside = run({}, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")[:2]
    assert len(outside["threads"]) > 1


def test_a_clients_trace_goes_on_but_nothing_else_that_it_says() -> None:
    headers = {"traceparent": CALLER, "tracestate": "vendor=x", "baggage": "user=x"}
    inside, _ = run(headers)
    assert inside["trace_id"] == TRACE
    assert inside["passed_on"].keys() == {"traceparent"}


@pytest.mark.parametrize(
    "nonsense",
    [
        "nonsense",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"{CALLER}-more",
        f"00-{TRACE}'; --b7ad6b7169203331-01",
    ],
)
def test_a_header_that_names_no_trace_is_no_trace(nonsense: str) -> None:
    inside, _ = run({"traceparent": nonsense})
    assert inside["trace_id"] != TRACE
    assert len(inside["trace_id"]) == 32


def test_an_operators_sampler_decides() -> None:
    sampler = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    for headers in ({}, {"traceparent": CALLER}):
        inside, _ = run(headers, **sampler)
        assert not is_sampled(inside["passed_on"]["traceparent"].split("-")[3])


def test_work_that_no_request_asked_for_has_no_trace() -> None:
    with span("sweep"):
        assert trace_headers() == {}
    with message_span("advisory", headers=None):
        assert trace_headers() == {}


def test_a_message_in_the_outbox_keeps_its_trace() -> None:
    message = OutboxMessage("id", "jobs.run.merge", b"\n", trace={"traceparent": CALLER})
    assert decode("id", encode(message)).trace == {"traceparent": CALLER}
    earlier = b'{"subject": "jobs.run.merge", "job_id": "j", "request_id": ""}\npayload'
    assert decode("id", earlier) == OutboxMessage("id", "jobs.run.merge", b"payload", "j", trace={})
