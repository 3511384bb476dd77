"""The gateway as a running server, from the first listening socket to the last answer."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator, Mapping

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.common.errors import ApiError, ErrorCode
from services.gateway.app import create_app
from services.gateway.backends import Backends
from services.gateway.errors import error_response
from services.gateway.notifications import Notifications
from services.gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

_PING_SECONDS = 20.0
# Clients say nothing on the WebSocket that we would read.
_MAX_CLIENT_MESSAGE = 4096
_CLOSE_SECONDS = 1.0
_WEBSOCKET_VERSION = "13"
_MAX_HEAD_BYTES = 64 * 1024
# Longer than the 60 s for which proxies keep idle connections: they, not we, end them.
_KEEP_ALIVE_SECONDS = 75


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 whose request heads have a limit, and whose refusal of what is not HTTP has the
    standard body too."""

    _head_bytes = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self.send_400_response("The request's headers are too large")

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        hosts = sum(name == b"host" for name, _ in self.headers)
        if self.parser.get_http_version() == "1.1" and hosts != 1:
            # The parser makes its own refusal of it (RFC 9112, section 3.2).
            raise ValueError("a request names its host once")
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        headers = dict(self.scope["headers"])
        is_right = (
            self.scope["method"] == "GET"
            and headers.get(b"sec-websocket-version") == _WEBSOCKET_VERSION.encode()
            and b"sec-websocket-key" in headers
        )
        if is_right:
            super().handle_websocket_upgrade()
        else:
            self._refuse(
                f"The WebSocket handshake is not that of version {_WEBSOCKET_VERSION} (RFC 6455)",
                {"Sec-WebSocket-Version": _WEBSOCKET_VERSION},
            )

    def send_400_response(self, msg: str) -> None:
        self._refuse(msg, {})

    def _refuse(self, detail: str, headers: Mapping[str, str]) -> None:
        error = ApiError(ErrorCode.INVALID_REQUEST, detail)
        refusal = error_response(error, {"Connection": "close", **headers})
        head = [b"%s: %s\r\n" % header for header in refusal.raw_headers]
        lines = [b"HTTP/1.1 400 Bad Request\r\n", *head, b"\r\n", bytes(refusal.body)]
        self.transport.write(b"".join(lines))
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn, told to stop by us instead of by signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Gateway:
    """A gateway that serves. ready turns False as soon as it begins to stop."""

    def __init__(self, api: FastAPI, port: int) -> None:
        self._api = api
        self.port = port

    @property
    def ready(self) -> bool:
        return bool(self._api.state.ready)


@contextlib.asynccontextmanager
async def serving(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    """Serves while the context lasts; OSError where the port is taken.

    At the end: no new connections, WebSockets closed as going away, running requests finished.
    """
    backends = Backends(settings)
    notifications = Notifications()
    api, app = create_app(settings, backends, notifications)
    listener = socket.create_server((settings.bind_host, settings.http_port), backlog=2048)
    server = _Server(_config(settings, app))
    listening = asyncio.create_task(notifications.listen(settings.nats_url))
    answering = asyncio.create_task(server.serve([listener]))
    port = int(listener.getsockname()[1])
    api.state.ready = True
    log.info("serving", address=f"{settings.bind_host}:{port}")
    try:
        yield Gateway(api, port)
    finally:
        api.state.ready = False
        await notifications.close(_CLOSE_SECONDS)
        server.should_exit = True
        await answering
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await backends.close()
        log.info("stopped")


def _config(settings: GatewaySettings, app: ASGIApp) -> uvicorn.Config:
    # uvicorn's own lines would show the WebSockets' queries; ours say the rest.
    uvicorn_log = logging.getLogger("uvicorn.error")
    uvicorn_log.setLevel(logging.WARNING)
    # What uvicorn says of every WebSocket that is refused with an answer, as ours are, and of
    # clients whose text is none.
    unsaid = ("without completing handshake", "Invalid UTF-8 sequence")
    uvicorn_log.addFilter(lambda record: not any(text in record.msg for text in unsaid))
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    return uvicorn.Config(
        app,
        http=_Protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        lifespan="off",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        ws_ping_interval=_PING_SECONDS,
        ws_ping_timeout=_PING_SECONDS,
        ws_max_size=_MAX_CLIENT_MESSAGE,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace_seconds),
    )
