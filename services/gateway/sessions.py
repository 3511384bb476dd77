"""/api/csrf-token and /api/sessions: the token, the statistics, the end."""

import asyncio
from datetime import UTC, datetime

import structlog
from fastapi import APIRouter, Request, Response
from unirig.v1.jobs_pb2 import CountJobsRequest
from unirig.v1.sessions_pb2 import (
    ACCESS_ISSUE_TOKEN,
    DeleteSessionRequest,
    GetSessionRequest,
)
from unirig.v1.storage_pb2 import DeleteSessionFilesRequest, GetUsageRequest

from services.common.errors import ApiError, ErrorCode
from services.common.paths import is_session_id, session_id_of
from services.gateway.authorize import AuthorizedRoute, Granted, access, forget_session
from services.gateway.backends import Backends
from services.gateway.openapi import CHANGE_ERRORS, READ_ERRORS, answers
from services.gateway.schemas import CsrfToken, DeletedSession, SessionStats

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/api", route_class=AuthorizedRoute, tags=["Sessions"])


@router.get(
    "/csrf-token",
    responses=answers(ErrorCode.RATE_LIMIT_EXCEEDED, ErrorCode.SERVICE_UNAVAILABLE),
)
@access(ACCESS_ISSUE_TOKEN)
async def csrf_token(granted: Granted) -> CsrfToken:
    """A token for the X-CSRF-Token header of POST, PUT and DELETE, and a session if needed."""
    return CsrfToken(csrf_token=granted.csrf_token)


@router.get(
    "/sessions/{session_id}/stats",
    responses=answers(*READ_ERRORS, ErrorCode.FORBIDDEN, ErrorCode.SESSION_NOT_FOUND),
)
async def session_stats(session_id: str, request: Request, granted: Granted) -> SessionStats:
    """What the session has done and keeps."""
    own = _own(session_id, granted.session_id)
    backends: Backends = request.app.state.backends
    (created_at, last_activity), jobs, usage = await asyncio.gather(
        _times(backends, own),
        backends.call(backends.jobs.CountJobs, CountJobsRequest(session_id=own)),
        backends.call(backends.storage.GetUsage, GetUsageRequest(session_id=own)),
    )
    active = jobs.pending + jobs.running
    return SessionStats(
        session_id=own,
        total_jobs=active + jobs.completed + jobs.failed + jobs.cancelled,
        completed_jobs=jobs.completed,
        failed_jobs=jobs.failed,
        pending_jobs=active,
        total_uploads=usage.uploads,
        storage_used_mb=_mib(usage.bytes),
        created_at=created_at,
        last_activity=last_activity,
        running_jobs=jobs.running,
        cancelled_jobs=jobs.cancelled,
    )


@router.delete(
    "/sessions/{session_id}",
    responses=answers(*CHANGE_ERRORS, ErrorCode.FORBIDDEN, ErrorCode.SESSION_NOT_FOUND),
)
async def delete_session(
    session_id: str, request: Request, response: Response, granted: Granted
) -> DeletedSession:
    """End the session: its jobs are cancelled, its files deleted, its cookie forgotten."""
    own = _own(session_id, granted.session_id)
    backends: Backends = request.app.state.backends
    # Before the end: afterwards storage may have deleted everything already.
    usage = await backends.call(backends.storage.GetUsage, GetUsageRequest(session_id=own))
    await backends.call(backends.sessions.DeleteSession, DeleteSessionRequest(session_id=own))
    try:
        await backends.call(
            backends.storage.DeleteSessionFiles, DeleteSessionFilesRequest(session_id=own)
        )
    except ApiError as error:
        # The SessionEnded event has storage delete them later.
        log.warning("session files not deleted yet", code=error.code)
    forget_session(request, response)
    return DeletedSession(
        message="Session deleted successfully",
        files_deleted=usage.uploads + usage.results,
        storage_freed_mb=_mib(usage.bytes),
    )


def _own(reference: str, session_id: str) -> str:
    """The id of the session in the path. FORBIDDEN where it is not the caller's."""
    named = session_id_of(reference)
    if not is_session_id(named):
        raise ApiError(ErrorCode.SESSION_NOT_FOUND, "Session not found")
    if named != session_id:
        raise ApiError(ErrorCode.FORBIDDEN, "This session belongs to somebody else")
    return named


async def _times(backends: Backends, session_id: str) -> tuple[datetime, datetime]:
    """created_at and last_activity; now for a session that was never stored."""
    try:
        found = await backends.call(
            backends.sessions.GetSession, GetSessionRequest(session_id=session_id)
        )
    except ApiError as error:
        if error.code is not ErrorCode.SESSION_NOT_FOUND:
            raise
        now = datetime.now(UTC)
        return now, now
    return found.created_at.ToDatetime(), found.last_activity.ToDatetime()


def _mib(size: int) -> float:
    return round(size / 2**20, 1)
