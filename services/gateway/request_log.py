"""One log line, one measurement and one span a request, under one request id.

They name the route, never the path, the query, a cookie or a token: that is why neither FastAPI's
telemetry nor OpenTelemetry's own layer makes the span, both of which record paths and queries.
"""

import re
import time
import uuid
from contextlib import AbstractContextManager, nullcontext

import structlog
from opentelemetry.trace import INVALID_SPAN, Span
from prometheus_client import Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.tracing import mark_failed, request_span

log = structlog.get_logger(__name__)

REQUESTS = Counter(
    "unirig_http_requests_total", "HTTP requests answered.", ["method", "route", "status"]
)
SECONDS = Histogram(
    "unirig_http_request_duration_seconds", "Time to answer a request.", ["method", "route"]
)
UPLOAD_BYTES = Counter("unirig_upload_bytes_total", "Bytes of uploaded files received.")
WEBSOCKET_CLIENTS = Gauge("unirig_websocket_clients", "WebSockets open now.")
RATE_LIMIT_REFUSALS = Counter(
    "unirig_rate_limit_refusals_total", "Requests refused for a rate limit."
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Probes come every few seconds and say nothing new.
_SILENT_ROUTES = frozenset({"/healthz", "/readyz"})


class RequestLog:
    """The outermost layer: every exception that gets this far is logged here and nowhere else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0
        headers = Headers(scope=scope)
        shown = headers.get("x-request-id", "")
        request_id = shown if _REQUEST_ID.match(shown) else uuid.uuid4().hex
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in _STARTS:
                status = message.get("status", 101)
                message.setdefault("headers", [])
                MutableHeaders(raw=message["headers"])["X-Request-ID"] = request_id
            await send(message)

        with _span(scope, headers, request_id) as span:
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                log.exception("request failed")
            finally:
                self._record(scope, status, time.perf_counter() - start, span)

    def _record(self, scope: Scope, status: int, seconds: float, span: Span) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = _method(scope)
        span.update_name(f"{method} {route}")
        span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            mark_failed(span, str(status))
        REQUESTS.labels(method, route, status).inc()
        if method != "WEBSOCKET":
            SECONDS.labels(method, route).observe(seconds)
        if route not in _SILENT_ROUTES:
            log.info(
                "request", method=method, route=route, status=status, seconds=round(seconds, 4)
            )


def _method(scope: Scope) -> str:
    method = str(scope.get("method", "WEBSOCKET"))
    return method if method in _METHODS or method == "WEBSOCKET" else "OTHER"


def _span(scope: Scope, headers: Headers, request_id: str) -> AbstractContextManager[Span]:
    """None for WebSockets, which may last for days, and for probes."""
    if scope["type"] != "http" or scope["path"] in _SILENT_ROUTES:
        return nullcontext(INVALID_SPAN)
    method = _method(scope)
    attributes = {"http.request.method": method, "unirig.request_id": request_id}
    return request_span(method, attributes, headers)


_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
