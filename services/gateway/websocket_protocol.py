"""The WebSocket protocol on the wire: refusals that have the standard body, and bounds on what a
client can make us hold."""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame
from websockets.http11 import Request

from services.gateway.errors import raw_refusal

_VERSION = "13"
_REFUSAL = f"The WebSocket handshake is not that of version {_VERSION} (RFC 6455)"
# Of one message; a fragment may be empty, so the message's size does not bound them.
_MAX_FRAGMENTS = 64
# Answers to pings that a client does not read, bytes.
_MAX_UNREAD = 64 * 1024


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, which leaves what is said above to its users."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.transport.is_closing():
            # No request that could be read: uvicorn would not answer and not hang up.
            self._refuse()

    def handle_connect(self, event: Request) -> None:
        try:
            self.conn.process_request(event)
        except InvalidHandshake:
            self._refuse()
        else:
            super().handle_connect(event)

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < _MAX_FRAGMENTS:
            super().handle_cont(event)
        else:
            self.transport.abort()

    def handle_ping(self) -> None:
        if self.transport.is_closing():
            return
        super().handle_ping()
        if self.transport.get_write_buffer_size() > _MAX_UNREAD:
            self.transport.abort()

    def _refuse(self) -> None:
        self.transport.write(raw_refusal(_REFUSAL, {"Sec-WebSocket-Version": _VERSION}))
        self.transport.close()
