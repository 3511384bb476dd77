"""The gateway as a running server, from the first listening socket to the last answer."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from typing import NoReturn

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway.app import create_app
from services.gateway.backends import Backends
from services.gateway.errors import raw_refusal
from services.gateway.notifications import Notifications
from services.gateway.settings import GatewaySettings
from services.gateway.websocket_protocol import WebSocketProtocol

log = structlog.get_logger(__name__)

_PING_SECONDS = 20.0
# Clients say nothing on the WebSocket that we would read.
_MAX_CLIENT_MESSAGE = 4096
_CLOSE_SECONDS = 1.0
_MAX_HEAD_BYTES = 64 * 1024
# For a request's head to arrive, from the connection or the head's first byte.
_HEAD_SECONDS = 30.0
_HEAD_TOO_LARGE = "The request's headers are too large"
# Longer than the 60 s for which proxies keep idle connections: they, not we, end them.
_KEEP_ALIVE_SECONDS = 75


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 whose request heads have a limit, and whose refusal of what is not HTTP has the
    standard body too."""

    _head_bytes = 0
    _in_head = True
    _fault = ""
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self.send_400_response(_HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self._in_head = True
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_head_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > _MAX_HEAD_BYTES:
            self._stop_parser(_HEAD_TOO_LARGE)
        hosts = sum(name == b"host" for name, _ in self.headers)
        if self.parser.get_http_version() == "1.1" and hosts != 1:
            self._stop_parser("A request names its host once")  # RFC 9112, section 3.2
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.send_400_response("The request's headers did not arrive in time")
        else:
            self._expect_head()  # it waits behind an answer that is still being sent

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_parser(self, fault: str) -> NoReturn:
        """Within a callback of it: it ends with an error, and the refusal says why."""
        self._fault = fault
        raise ValueError(fault)

    def send_400_response(self, msg: str) -> None:
        self.transport.write(raw_refusal(self._fault or msg))
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
        ws=WebSocketProtocol,
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
