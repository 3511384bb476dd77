"""The metrics port: /metrics for Prometheus, /healthz and /readyz for probes."""

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import Counter, Histogram, make_wsgi_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

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


def serve_metrics(host: str, port: int, is_ready: Callable[[], bool]) -> None:
    """Serves the metrics port from a daemon thread until the process ends."""
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
