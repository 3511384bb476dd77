"""A collector of traces: OTLP by gRPC, as the services send it, and by HTTP, as Triton does."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class Span:
    """A span as it came. Ids are hex; parent_id is empty for the first of a trace."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    failed: bool = False
    state: str = ""


@dataclass
class Collector:
    """What was collected so far. endpoint: of gRPC. traces_url: of HTTP."""

    endpoint: str
    traces_url: str
    spans: list[Span] = field(default_factory=list)

    def trace(self, trace_id: str) -> list[Span]:
        return [span for span in list(self.spans) if span.trace_id == trace_id]

    def wait(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Waits until spans have come that fulfil the condition."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, sorted(span.name for span in self.spans)
            time.sleep(0.05)


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens while the context lasts."""
    server = grpc.server(ThreadPoolExecutor(4))
    port = server.add_insecure_port("127.0.0.1:0")
    http = ThreadingHTTPServer(("127.0.0.1", 0), _HttpReceiver)
    traces_url = f"http://127.0.0.1:{http.server_port}/v1/traces"
    collector = Collector(f"http://127.0.0.1:{port}", traces_url)
    http.collector = collector  # type: ignore[attr-defined]
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_GrpcReceiver(collector), server)
    server.start()
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield collector
    finally:
        server.stop(0)
        http.shutdown()
        http.server_close()


class _GrpcReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: Any) -> Any:
        for of_resource in request.resource_spans:
            resource = _values(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    self._collector.spans.append(
                        Span(
                            service=resource["service.name"],
                            name=span.name,
                            trace_id=span.trace_id.hex(),
                            span_id=span.span_id.hex(),
                            parent_id=span.parent_span_id.hex(),
                            attributes={**resource, **_values(span.attributes)},
                            failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                            state=span.trace_state,
                        )
                    )
        return trace_service_pb2.ExportTraceServiceResponse()


class _HttpReceiver(BaseHTTPRequestHandler):
    """Triton's exporter sends JSON, whose ids are hex already."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        collector: Collector = self.server.collector  # type: ignore[attr-defined]
        for of_resource in body["resourceSpans"]:
            resource = _json_values(of_resource["resource"])
            for of_scope in of_resource["scopeSpans"]:
                collector.spans.extend(
                    Span(
                        service=resource["service.name"],
                        name=span["name"],
                        trace_id=span["traceId"],
                        span_id=span["spanId"],
                        parent_id=span.get("parentSpanId", ""),
                        attributes={**resource, **_json_values(span)},
                    )
                    for span in of_scope["spans"]
                )
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


def _values(attributes: Any) -> dict[str, Any]:
    return {
        attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value"))
        for attribute in attributes
    }


def _json_values(owner: dict[str, Any]) -> dict[str, Any]:
    return {
        attribute["key"]: next(iter(attribute["value"].values()))
        for attribute in owner.get("attributes", [])
    }
