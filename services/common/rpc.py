"""gRPC, the same way in every service: servers with health, reflection, metrics and rich errors;
channels with load balancing and retries.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import Span, SpanKind

from services.common.errors import ApiError, ErrorCode, rpc_status_of
from services.common.metrics import RPC_ERRORS, RPC_SECONDS
from services.common.tracing import call_span, mark_failed, span, trace_headers

log = structlog.get_logger(__name__)

REQUEST_ID = "x-request-id"
# Room for a 1 MiB chunk and its envelope.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Without this, flow-control windows grow with the bandwidth, and memory with them.
    ("grpc.http2.bdp_probe", 0),
]
# Clients look for new replicas whenever they connect anew, so connections do not last.
_CONNECTION_SECONDS = 60.0
# What such a connection may go on with: longer than any transfer may take.
_LAST_CALLS_SECONDS = 2 * 3600.0
# Statuses that are the server's fault and not the caller's.
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE"})


class RpcServer:
    """A gRPC server that answers health checks and reflection beside its own services.

    connection_seconds: after which a connection takes no new calls; those that run go on.
    """

    def __init__(
        self, host: str, port: int, connection_seconds: float = _CONNECTION_SECONDS
    ) -> None:
        self._server = grpc.aio.server(
            interceptors=[_Outermost()],
            options=[
                *_OPTIONS,
                ("grpc.so_reuseport", 0),
                ("grpc.max_connection_age_ms", int(connection_seconds * 1000)),
                ("grpc.max_connection_age_grace_ms", int(_LAST_CALLS_SECONDS * 1000)),
            ],
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._address = f"{host}:{port}"
        self._names: list[str] = []
        self.ready = False

    @property
    def server(self) -> grpc.aio.Server:
        """What the generated add_…Servicer_to_server functions take."""
        return self._server

    async def start(self, service_names: Sequence[str]) -> int:
        """Serves, ready from now on. Returns the port; OSError where it is taken."""
        reflection.enable_server_reflection(
            [*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )
        try:
            port = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._address}: {error}") from error
        await self._server.start()
        self._names = ["", *service_names]
        await self.set_ready(True)
        log.info("serving", address=self._address, port=port)
        return port

    async def set_ready(self, ready: bool) -> None:
        """Tells probes and balancers whether calls are of any use now."""
        self.ready = ready
        status = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._health.set(name, status.SERVING if ready else status.NOT_SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new calls and gives the running ones their time."""
        self.ready = False
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


class _Outermost(grpc.aio.ServerInterceptor):
    """Around every call: binds its request id to the logs, goes on with its trace, counts and times
    it, and turns an ApiError into its rich status and anything else into INTERNAL without a word of
    what it was."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        metadata = dict(handler_call_details.invocation_metadata or ())
        request_id = str(metadata.get(REQUEST_ID, ""))

        def explained(error: Exception) -> ApiError:
            if isinstance(error, ApiError):
                RPC_ERRORS.labels(error.code).inc()
                return error
            log.exception("rpc failed", method=method)
            RPC_ERRORS.labels(ErrorCode.INTERNAL_ERROR).inc()
            return ApiError(ErrorCode.INTERNAL_ERROR, "Internal server error")

        def begin() -> tuple[float, Span]:
            structlog.contextvars.clear_contextvars()
            structlog.contextvars.bind_contextvars(request_id=request_id)
            return time.perf_counter(), call_span(*_described(method), metadata)

        def end(start: float, call: Span, code: str) -> None:
            RPC_SECONDS.labels(method, code).observe(time.perf_counter() - start)
            call.set_attribute("rpc.response.status_code", code)
            if code in _FAULTS:
                mark_failed(call, code)
            call.end()

        async def unary(request: Any, context: Any) -> Any:
            (start, call), code = begin(), "CANCELLED"
            try:
                answer = await behave(request, context)
                code = "OK"
                return answer
            except grpc.aio.AbortError:
                code = "ABORTED"
                raise
            except Exception as error:
                refusal = explained(error)
                status, trailing = rpc_status_of(refusal)
                code = status.name
                await context.abort(status, refusal.detail, trailing)
            finally:
                end(start, call, code)

        async def streaming(request: Any, context: Any) -> AsyncIterator[Any]:
            (start, call), code = begin(), "CANCELLED"
            try:
                async for response in behave(request, context):
                    yield response
                code = "OK"
            except grpc.aio.AbortError:
                code = "ABORTED"
                raise
            except Exception as error:
                refusal = explained(error)
                status, trailing = rpc_status_of(refusal)
                code = status.name
                await context.abort(status, refusal.detail, trailing)
            finally:
                end(start, call, code)

        if method.startswith("/grpc."):
            return handler
        if handler.response_streaming:
            behave = handler.stream_stream or handler.unary_stream
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(streaming, handler.request_deserializer, handler.response_serializer)
        behave = handler.stream_unary or handler.unary_unary
        make = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(unary, handler.request_deserializer, handler.response_serializer)


class _Calling(grpc.aio.UnaryUnaryClientInterceptor):
    """Around every call of one message for one answer: a span, and what the other side's logs and
    trace go on with.

    Calls that stream add request_metadata() themselves: an intercepted one would pass its messages
    through a queue of its own.
    """

    async def intercept_unary_unary(
        self,
        continuation: Callable[[Any, Any], Awaitable[Any]],
        client_call_details: Any,
        request: Any,
    ) -> Any:
        # The method is bytes, although it is typed as text (github.com/grpc/grpc/issues/31092).
        name, attributes = _described(client_call_details.method.decode())
        with span(name, SpanKind.CLIENT, attributes) as calling:
            metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()), *request_metadata())
            call = await continuation(client_call_details._replace(metadata=metadata), request)
            try:
                code = (await call.code()).name
            except asyncio.CancelledError:
                call.cancel()
                raise
            calling.set_attribute("rpc.response.status_code", code)
            if code != "OK":
                mark_failed(calling, code)
            return call


def open_channel(address: str, service: str, idempotent_methods: Sequence[str]) -> grpc.aio.Channel:
    """A channel that balances over the address's replicas and retries UNAVAILABLE where it is safe.

    service: the full gRPC name, "unirig.v1.JobsService". Only idempotent_methods are retried.
    """
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": service, "method": method} for method in idempotent_methods],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    # CANCELLED: it came just as a server stopped, and was not looked at.
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ]
        if idempotent_methods
        else [],
    }
    options = [
        *_OPTIONS,
        ("grpc.service_config", json.dumps(config)),
        ("grpc.keepalive_time_ms", 30_000),
        # A service that was down is found again within a second or so.
        ("grpc.max_reconnect_backoff_ms", 1000),
        # Also where its pods are new ones: gRPC would look for addresses only every 30 s.
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ]
    return grpc.aio.insecure_channel(address, options=options, interceptors=[_Calling()])


def request_metadata() -> tuple[tuple[str, str], ...]:
    """The metadata that carries the current request's id and trace to the next service."""
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    return (*(((REQUEST_ID, str(request_id)),) if request_id else ()), *trace_headers().items())


def _described(method: str) -> tuple[str, dict[str, str]]:
    """The name and the attributes of a call's span: "/unirig.v1.JobsService/GetJob"."""
    name = method.removeprefix("/")
    return name, {"rpc.system.name": "grpc", "rpc.method": name}
