"""The metrics port: /metrics for Prometheus, /healthz and /readyz for probes."""

import threading
from collections.abc import Callable, Iterable
from importlib.metadata import version
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    make_wsgi_app,
)

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

# When each series began would be a third of all series, and of no use to Prometheus.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Named component, as Prometheus gives what it scrapes in a cluster a label called service.
BUILD_INFO = Gauge(
    "unirig_build_info", "1, labelled with what runs and its version.", ["component", "version"]
)
READY = Gauge("unirig_ready", "1 if /readyz says so, else 0.", ["component"])
RPC_SECONDS = Histogram(
    "unirig_rpc_duration_seconds", "Time to answer a gRPC call.", ["method", "code"]
)
RPC_ERRORS = Counter(
    "unirig_rpc_refusals_total", "gRPC calls refused, by API error code.", ["code"]
)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Probes and scrapes are not worth a line."""


def serve_metrics(component: str, host: str, port: int, is_ready: Callable[[], bool]) -> None:
    """Serves the metrics port from a daemon thread until the process ends."""
    BUILD_INFO.labels(component, version("unirig-service")).set(1)
    READY.labels(component).set_function(is_ready)
    metrics = make_wsgi_app()

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            body: Iterable[bytes] = metrics(environ, start_response)
            return body
        if path == "/healthz" or (path == "/readyz" and is_ready()):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"ok\n"]
        if path == "/readyz":
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"not ready\n"]
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"not found\n"]

    server = make_server(host, port, app, server_class=_Server, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
