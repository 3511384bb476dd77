"""A collector of traces: OTLP by gRPC, as the services send it, and by HTTP, as Triton does.

It is a process of its own, `python -m tests.otlp_collector FILE GRPC_PORT HTTP_PORT`: a process in
which threads serve gRPC cannot safely fork, as the stack does for each service.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from services.cli.servers import free_port, wait_for_port

_HOST = "127.0.0.1"


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


@dataclass(frozen=True)
class Collector:
    """endpoint: of gRPC. traces_url: of HTTP. file: a span a line."""

    endpoint: str
    traces_url: str
    file: Path

    @property
    def spans(self) -> list[Span]:
        """What was collected so far."""
        whole_lines = self.file.read_text().split("\n")[:-1]
        return [Span(**json.loads(line)) for line in whole_lines]

    def trace(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id == trace_id]

    def wait(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Waits until spans have come that fulfil the condition."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, sorted(span.name for span in self.spans)
            time.sleep(0.05)


@contextmanager
def collecting(folder: Path) -> Iterator[Collector]:
    """A collector that listens while the context lasts."""
    file = folder / "spans"
    file.touch()
    grpc_port, http_port = free_port(), free_port()
    command = [sys.executable, "-m", __name__, str(file), str(grpc_port), str(http_port)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
    try:
        assert wait_for_port(grpc_port, process)
        assert wait_for_port(http_port, process)
        endpoint, http = (f"http://{_HOST}:{port}" for port in (grpc_port, http_port))
        yield Collector(endpoint, f"{http}/v1/traces", file)
    finally:
        process.kill()
        process.wait()


class _Spans:
    """The file, written from several threads."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()

    def add(self, span: Span) -> None:
        with self._lock, self._file.open("a") as file:
            file.write(json.dumps(asdict(span)) + "\n")


class _GrpcReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, spans: _Spans) -> None:
        self._spans = spans

    def Export(self, request: Any, context: Any) -> Any:
        for of_resource in request.resource_spans:
            resource = _values(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    self._spans.add(
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


def _http_receiver(spans: _Spans) -> type[BaseHTTPRequestHandler]:
    class Receiver(BaseHTTPRequestHandler):
        """Triton's exporter sends JSON, whose ids are hex already."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for of_resource in body["resourceSpans"]:
                resource = _json_values(of_resource["resource"])
                for of_scope in of_resource["scopeSpans"]:
                    for span in of_scope["spans"]:
                        spans.add(
                            Span(
                                service=resource["service.name"],
                                name=span["name"],
                                trace_id=span["traceId"],
                                span_id=span["spanId"],
                                parent_id=span.get("parentSpanId", ""),
                                attributes={**resource, **_json_values(span)},
                            )
                        )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    return Receiver


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


def main() -> None:
    file, grpc_port, http_port = sys.argv[1:]
    spans = _Spans(Path(file))
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_insecure_port(f"{_HOST}:{grpc_port}")
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_GrpcReceiver(spans), server)
    server.start()
    ThreadingHTTPServer((_HOST, int(http_port)), _http_receiver(spans)).serve_forever()


if __name__ == "__main__":
    main()
