"""Answers that a client can read although it is still sending.

A server that answers early and closes makes the kernel reset the connection, and the client's
unread answer is lost with it. So the answer goes out whole, then the rest of the request is read
and thrown away, within bounds, and only then does the connection end.
"""

import asyncio
import contextlib
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MAX_BYTES = 512 * 1024 * 1024
_MAX_SECONDS = 30
_IDLE_SECONDS = 5


class Drain:
    """Reads on, after the answer, what the application left unread of the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        unread = _has_body(headers)
        # A client that waits to be told to continue sends nothing before that.
        sending = headers.get(b"expect", b"").lower() != b"100-continue"

        async def watched_receive() -> Message:
            nonlocal unread, sending
            sending = True
            message = await receive()
            unread = unread and _more_to_come(message)
            return message

        async def draining_send(message: Message) -> None:
            if message["type"] == "http.response.start" and unread:
                MutableHeaders(raw=message["headers"])["Connection"] = "close"
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not (last and unread and sending):
                await send(message)
                return
            await send({**message, "more_body": True})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MAX_SECONDS):
                    await _discard(receive)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, watched_receive, draining_send)


def _has_body(headers: Mapping[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _more_to_come(message: Message) -> bool:
    return message["type"] == "http.request" and bool(message.get("more_body", False))


async def _discard(receive: Receive) -> None:
    discarded = 0
    while discarded < _MAX_BYTES:
        async with asyncio.timeout(_IDLE_SECONDS):
            message = await receive()
        if not _more_to_come(message):
            return
        discarded += len(message.get("body", b""))
