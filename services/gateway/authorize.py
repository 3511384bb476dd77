"""Who is asking, and may they: the one call to sessions that every request makes.

A route declares what it needs with @access; AuthorizedRoute asks before the body is read, and
SessionHeaders puts the outcome (rate limit, new cookie) on whatever the answer becomes.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import Depends, HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from unirig.v1 import sessions_pb2
from unirig.v1.sessions_pb2 import (
    ACCESS_PEEK,
    ACCESS_READ,
    ACCESS_UPLOAD,
    ACCESS_WRITE,
    AuthorizeRequest,
)

from services.common.errors import ApiError, ErrorCode
from services.gateway.backends import Backends
from services.gateway.request_log import RATE_LIMIT_REFUSALS

COOKIE = "session_id"
CSRF_HEADER = "X-CSRF-Token"
# Longer than any cookie or token of ours; what is longer is invalid whole or cut.
_MAX_CREDENTIAL = 1024
# Room for any JSON body of the API.
_MAX_BODY_BYTES = 64 * 1024
# How long an answer that is ready may wait for the limits it is to show.
_PEEK_SECONDS = 1.0
# How long the client may pause within one.
_BODY_SECONDS = 30

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True)
class RateLimit:
    """The tightest limit that applies: requests in the window, requests left, Unix seconds."""

    limit: int
    remaining: int
    reset: int


@dataclass(frozen=True)
class Grant:
    """What sessions said. session_id is empty where the access needs none and none was shown."""

    session_id: str
    csrf_token: str
    new_cookie: str
    cookie_max_age: int
    rate_limit: RateLimit | None


def access(needed: "sessions_pb2.Access.ValueType") -> Callable[[_Endpoint], _Endpoint]:
    """Declares an endpoint's access where it is not a plain read (GET) or change (the others)."""

    def mark(endpoint: _Endpoint) -> _Endpoint:
        endpoint.access = needed  # type: ignore[attr-defined]
        return endpoint

    return mark


async def authorize(connection: HTTPConnection, needed: "sessions_pb2.Access.ValueType") -> Grant:
    """Asks sessions once and remembers the outcome on the connection. ApiError where refused."""
    backends: Backends = connection.app.state.backends
    request = AuthorizeRequest(
        access=needed,
        cookie=connection.cookies.get(COOKIE, "")[:_MAX_CREDENTIAL],
        csrf_token=connection.headers.get(CSRF_HEADER, "")[:_MAX_CREDENTIAL],
        client_address=connection.client.host if connection.client else "",
    )
    connection.state.authorized = True
    try:
        answer = await backends.call(backends.sessions.Authorize, request)
    except ApiError as error:
        connection.state.rate_limit = _rate_limit_of(error)
        if error.code is ErrorCode.RATE_LIMIT_EXCEEDED:
            RATE_LIMIT_REFUSALS.inc()
        raise
    rate_limit = None
    if answer.HasField("rate_limit"):
        found = answer.rate_limit
        rate_limit = RateLimit(found.limit, found.remaining, found.reset_unix_seconds)
    grant = Grant(
        session_id=answer.session_id,
        csrf_token=answer.csrf_token,
        new_cookie=answer.new_cookie,
        cookie_max_age=answer.cookie_max_age_seconds,
        rate_limit=rate_limit,
    )
    connection.state.grant = grant
    connection.state.rate_limit = rate_limit
    if grant.session_id:
        structlog.contextvars.bind_contextvars(session_id=grant.session_id)
    return grant


def _rate_limit_of(error: ApiError) -> RateLimit | None:
    facts = error.metadata
    if not {"limit", "remaining", "reset"} <= facts.keys():
        return None
    return RateLimit(int(facts["limit"]), int(facts["remaining"]), int(facts["reset"]))


class AuthorizedRoute(APIRoute):
    """A route that is refused before its body is read, and that reads no body without end."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        default = ACCESS_READ if (self.methods or set()) <= {"GET", "HEAD"} else ACCESS_WRITE
        needed = getattr(self.endpoint, "access", default)

        async def handle(request: Request) -> Response:
            await authorize(request, needed)
            if needed == ACCESS_UPLOAD:
                return await answer(request)
            return await answer(Request(request.scope, _bounded(request.receive)))

        return handle


def _bounded(receive: Receive) -> Receive:
    received = 0

    async def receive_bounded() -> Message:
        nonlocal received
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                message = await receive()
        except TimeoutError:
            raise HTTPException(400, "The request body did not arrive in time") from None
        received += len(message.get("body", b""))
        if received > _MAX_BODY_BYTES:
            raise HTTPException(400, f"The request body is larger than {_MAX_BODY_BYTES} bytes")
        return message

    return receive_bounded


def _granted(request: Request) -> Grant:
    grant: Grant = request.state.grant
    return grant


Granted = Annotated[Grant, Depends(_granted)]


class SessionHeaders:
    """Adds the rate limit to every /api answer, and the cookie of a session that is new.

    Answers that no route authorized (health, documentation, 404, 405) look the limit up.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        state = connection.state

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                in_api = (scope["path"] + "/").startswith("/api/")
                if in_api:
                    headers.setdefault("Cache-Control", "no-store")
                if in_api and not hasattr(state, "authorized"):
                    await self._peek(connection)
                limit: RateLimit | None = getattr(state, "rate_limit", None)
                if in_api and limit is not None:
                    headers["X-RateLimit-Limit"] = str(limit.limit)
                    headers["X-RateLimit-Remaining"] = str(limit.remaining)
                    headers["X-RateLimit-Reset"] = str(limit.reset)
                grant: Grant | None = getattr(state, "grant", None)
                if grant is not None and grant.new_cookie:
                    headers.append("Set-Cookie", _cookie(grant, scope["scheme"] == "https"))
            await send(message)

        await self._app(scope, receive, send_with_headers)

    async def _peek(self, connection: HTTPConnection) -> None:
        """Where sessions does not answer soon, documentation and health go without the headers."""
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(_PEEK_SECONDS):
                await authorize(connection, ACCESS_PEEK)


def _cookie(grant: Grant, secure: bool) -> str:
    attributes = f"Max-Age={grant.cookie_max_age}; Path=/; HttpOnly; SameSite=Lax"
    return f"{COOKIE}={grant.new_cookie}; {attributes}" + ("; Secure" if secure else "")


def forget_session(request: Request, response: Response) -> None:
    """Makes the client forget its session, even where this request renewed the cookie."""
    request.state.grant = replace(request.state.grant, new_cookie="")
    secure = request.url.scheme == "https"
    response.delete_cookie(COOKIE, path="/", secure=secure, httponly=True, samesite="lax")
