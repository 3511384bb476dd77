"""Traces by OpenTelemetry: one from an HTTP request through every service to Triton.

The SDK reads the standard OTEL_* variables: where spans go by OTLP/gRPC, and which are kept. Where
they name no endpoint nothing is sent, but ids are made and passed on all the same, so that the log
lines of one request can be found.

Only the gateway begins traces. The others go on with one that comes by gRPC or NATS: probes,
sweeps and expiries make no spans. What travels is traceparent alone, as clients may put anything
into tracestate and baggage. Names and attributes hold no path, file name, session or text of an
error.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from typing import Any

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_TRACEPARENT = "traceparent"
# How long the end of a process waits for the collector to take the last spans, seconds.
_FLUSH_SECONDS = 3.0
_QUIET_SECONDS = 600.0
_EXPORT_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.sdk._shared_internal",
)

_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("unirig")

Attributes = Mapping[str, str | int | float | bool]


class _Rarely(logging.Filter):
    """One line in ten minutes: a collector that is away stays away for some time."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if time.monotonic() < self._quiet_until:
            return False
        self._quiet_until = time.monotonic() + _QUIET_SECONDS
        return True


@contextmanager
def tracing(service: str) -> Iterator[None]:
    """Makes and sends the process's spans while the context lasts."""
    resource = Resource.create(
        {"service.name": f"unirig-{service}", "service.version": version("unirig-service")}
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    if any(os.environ.get(name) for name in _ENDPOINTS):
        rarely = _Rarely()
        for name in _EXPORT_LOGGERS:
            logging.getLogger(name).addFilter(rarely)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # It would wait much longer for a collector that is away.
        sending = threading.Thread(target=provider.shutdown, daemon=True)
        sending.start()
        sending.join(_FLUSH_SECONDS)


def trace_headers() -> dict[str, str]:
    """The headers that take the current span to whoever goes on with the trace; none without."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers


@contextmanager
def request_span(name: str, attributes: Attributes, headers: Mapping[str, str]) -> Iterator[Span]:
    """A span around a request from outside: the first of its trace, unless its headers name one."""
    with _tracer.start_as_current_span(
        name,
        _caller(headers),
        SpanKind.SERVER,
        attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as begun:
        yield begun


def call_span(name: str, attributes: Attributes, headers: Mapping[str, Any]) -> Span:
    """A span, to be ended, within the one that the headers name; none without.

    It stays the current one until the task ends: a stream's end may come in another.
    """
    parent = _caller(headers)
    begun = (
        _tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        if _has_span(parent)
        else trace.INVALID_SPAN
    )
    context.attach(trace.set_span_in_context(begun, parent))
    return begun


def message_span(
    name: str, headers: Mapping[str, str] | None, attributes: Attributes | None = None
) -> AbstractContextManager[Span]:
    """A span around the handling of a message, within the one its headers name; none without."""
    return _span_within(_caller(headers or {}), name, SpanKind.CONSUMER, attributes)


def span(
    name: str, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes | None = None
) -> AbstractContextManager[Span]:
    """A span around a part of the work, within the current one; none without."""
    return _span_within(context.get_current(), name, kind, attributes)


def mark_failed(failed: Span, kind: str) -> None:
    """Says that what the span is around failed, and how: an error code or the like."""
    failed.set_attribute("error.type", kind)
    failed.set_status(StatusCode.ERROR)


@contextmanager
def _span_within(
    parent: context.Context, name: str, kind: SpanKind, attributes: Attributes | None
) -> Iterator[Span]:
    if not _has_span(parent):
        yield trace.INVALID_SPAN
        return
    with _tracer.start_as_current_span(
        name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as begun:
        try:
            yield begun
        except BaseException as error:
            code = getattr(error, "code", None)
            mark_failed(begun, code if isinstance(code, str) else type(error).__name__)
            raise


def _caller(headers: Mapping[str, Any]) -> context.Context:
    """The context of whoever sent the headers; an empty one where they name no span."""
    carrier = {_TRACEPARENT: str(headers.get(_TRACEPARENT, ""))}
    return _propagator.extract(carrier, context.Context())


def _has_span(context_: context.Context) -> bool:
    return trace.get_current_span(context_).get_span_context().is_valid
