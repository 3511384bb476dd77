"""/ws?session=: a session's job events as they happen."""

import asyncio
import contextlib
import json
from urllib.parse import urlsplit

import structlog
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from unirig.v1 import jobs_pb2
from unirig.v1.jobs_pb2 import ListJobsRequest
from unirig.v1.sessions_pb2 import ACCESS_READ

from services.common.errors import ApiError, ErrorCode
from services.common.paths import session_id_of
from services.gateway.authorize import authorize
from services.gateway.backends import Backends
from services.gateway.errors import error_response
from services.gateway.jobs import is_active, status_name, type_name
from services.gateway.notifications import Inbox, Notifications
from services.gateway.request_log import WEBSOCKET_CLIENTS
from services.gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

router = APIRouter()

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NO_STATUS = 1005


@router.websocket("/ws")
async def events(websocket: WebSocket) -> None:
    settings: GatewaySettings = websocket.app.state.settings
    notifications: Notifications = websocket.app.state.notifications
    backends: Backends = websocket.app.state.backends
    try:
        session_id = await _admitted(websocket, settings)
        with notifications.inbox(session_id) as inbox:
            await _catch_up(backends, session_id, inbox, first=True)
            await websocket.accept()
            with WEBSOCKET_CLIENTS.track_inprogress():
                await _serve(websocket, inbox, backends, session_id, settings)
    except ApiError as error:
        await websocket.send_denial_response(error_response(error))


@router.get("/ws", include_in_schema=False)
async def not_a_websocket() -> None:
    """Clients that speak plain HTTP here, and proxies that drop the Upgrade header."""
    raise ApiError(ErrorCode.INVALID_REQUEST, "This is a WebSocket: connect with ws:// or wss://")


@router.websocket("/{path:path}")
async def nowhere(websocket: WebSocket) -> None:
    """Every other path: the router itself would refuse with neither status 404 nor a body."""
    refusal = error_response(ApiError(ErrorCode.NOT_FOUND, "Not found"))
    await websocket.send_denial_response(refusal)


async def _admitted(websocket: WebSocket, settings: GatewaySettings) -> str:
    """The session's id. ApiError where the origin, the cookie or the session is wrong."""
    origin = websocket.headers.get("origin")
    host = websocket.headers.get("host", "")
    if origin is not None and not origin_allowed(origin, host, settings.allowed_origins):
        raise ApiError(ErrorCode.FORBIDDEN, "This origin may not open a WebSocket here")
    grant = await authorize(websocket, ACCESS_READ)
    named = websocket.query_params.get("session", "")
    if not named:
        raise ApiError(ErrorCode.INVALID_REQUEST, "session: name the session, as in /ws?session=")
    if session_id_of(named) != grant.session_id:
        raise ApiError(ErrorCode.FORBIDDEN, "This session belongs to somebody else")
    return grant.session_id


def origin_allowed(origin: str, host: str, allowed: tuple[str, ...]) -> bool:
    """Whether a page of that origin may connect: one that is configured, or the host's own."""
    origin = origin.lower()
    if origin in allowed:
        return True
    try:
        page = urlsplit(origin)
        own = urlsplit(f"{page.scheme}://{host.lower()}")
        default = _DEFAULT_PORTS[page.scheme]
        return bool(page.hostname) and (page.hostname, page.port or default) == (
            own.hostname,
            own.port or default,
        )
    except (KeyError, ValueError):
        return False


async def _serve(
    websocket: WebSocket,
    inbox: Inbox,
    backends: Backends,
    session_id: str,
    settings: GatewaySettings,
) -> None:
    companions = [
        asyncio.create_task(_notice_departure(websocket, inbox)),
        asyncio.create_task(
            _keep_current(backends, session_id, inbox, settings.websocket_refresh_seconds)
        ),
    ]
    try:
        while (job := await inbox.take()) is not None:
            await websocket.send_text(json.dumps(event_of(job), ensure_ascii=False))
        code, reason = inbox.closed or (_NO_STATUS, "")
        if code != _NO_STATUS:
            await websocket.close(code, reason)
    except WebSocketDisconnect:
        return
    finally:
        for task in companions:
            task.cancel()
        await asyncio.gather(*companions, return_exceptions=True)


async def _notice_departure(websocket: WebSocket, inbox: Inbox) -> None:
    """Reads until the client leaves; what it says is of no interest."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
    inbox.close(_NO_STATUS, "")


async def _keep_current(
    backends: Backends, session_id: str, inbox: Inbox, every_seconds: float
) -> None:
    """Looks the latest job up now and then: NATS may have been away when it changed."""
    while True:
        await asyncio.sleep(every_seconds)
        with contextlib.suppress(ApiError):
            await _catch_up(backends, session_id, inbox, first=False)


async def _catch_up(backends: Backends, session_id: str, inbox: Inbox, *, first: bool) -> None:
    """Offers the state of the session's latest job; at first only if it is active."""
    newest = await backends.call(
        backends.jobs.ListJobs, ListJobsRequest(session_id=session_id, limit=1)
    )
    for job in newest.jobs:
        if first and not is_active(job):
            inbox.skip(job)
        else:
            inbox.offer(job)


def event_of(job: jobs_pb2.Job) -> dict[str, object]:
    """The event that tells a client of the job's state."""
    event: dict[str, object] = {"job_id": job.job_id, "status": status_name(job)}
    match job.status:
        case jobs_pb2.JOB_STATUS_COMPLETED:
            return {"type": "job_completed", **event, "output_file": job.output_file}
        case jobs_pb2.JOB_STATUS_FAILED:
            failure = {"error": job.error, "error_code": job.error_code}
            return {"type": "job_failed", **event, **failure}
        case jobs_pb2.JOB_STATUS_CANCELLED:
            return {"type": "job_cancelled", **event}
    message = job.message or f"Processing {type_name(job)}..."
    return {"type": "job_progress", **event, "progress": job.progress, "message": message}
