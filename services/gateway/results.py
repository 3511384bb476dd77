"""GET and HEAD /results/{session_id}/{filename}: downloads, whole or in part (RFC 9110)."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import quote

import grpc
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from unirig.v1.sessions_pb2 import ACCESS_OPTIONAL
from unirig.v1.storage_pb2 import FileInfo, GetFileRequest, GetFileResponse, StatFileRequest

from services.common.errors import ApiError, ErrorCode
from services.common.paths import parse_path
from services.common.rpc import request_metadata
from services.gateway.authorize import AuthorizedRoute, Granted, access
from services.gateway.backends import Backends, explained
from services.gateway.openapi import DOWNLOAD, answers
from services.gateway.settings import GatewaySettings

router = APIRouter(route_class=AuthorizedRoute, tags=["Files"])

_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\Z", re.ASCII)

_ERRORS = answers(
    ErrorCode.UNAUTHORIZED,
    ErrorCode.FILE_NOT_FOUND,
    ErrorCode.RANGE_NOT_SATISFIABLE,
    ErrorCode.SERVICE_UNAVAILABLE,
    limited=False,
)


@router.head("/results/{session_id}/{filename:path}", include_in_schema=False)
@router.get(
    "/results/{session_id}/{filename:path}",
    response_class=StreamingResponse,
    responses={**_ERRORS, **DOWNLOAD},
)
@access(ACCESS_OPTIONAL)
async def download(session_id: str, filename: str, request: Request, granted: Granted) -> Response:
    """Download a job's result. Also HEAD, Range, If-Range and If-None-Match."""
    backends: Backends = request.app.state.backends
    settings: GatewaySettings = request.app.state.settings
    if settings.results_require_cookie and not granted.session_id:
        raise ApiError(ErrorCode.UNAUTHORIZED, "A session cookie is required")
    path = parse_path(f"/results/{session_id}/{filename}")
    if path is None or granted.session_id not in ("", path.session_id):
        raise ApiError(ErrorCode.FILE_NOT_FOUND, "File not found")
    found = await backends.call(
        backends.storage.StatFile,
        StatFileRequest(session_id=path.session_id, path=str(path)),
    )
    file = found.file
    headers = _headers(file)
    if _is_unchanged(request, file):
        return Response(status_code=304, headers=headers)
    wanted = requested_range(request.headers.get("range"), file.size)
    if wanted is None or not _range_applies(request, file):
        status, first, last = 200, 0, file.size - 1
    else:
        status, (first, last) = 206, wanted
        headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
    length = last - first + 1
    headers |= {
        "Content-Length": str(length),
        "Content-Type": "application/octet-stream",
        "Content-Disposition": content_disposition(file.filename),
    }
    if request.method == "HEAD" or length == 0:
        return Response(status_code=status, headers=headers)
    call = backends.storage.GetFile(
        GetFileRequest(session_id=path.session_id, path=str(path), offset=first, length=length),
        timeout=settings.transfer_timeout_seconds,
        metadata=request_metadata(),
    )
    parts = aiter(call)
    try:
        opened = await anext(parts)
    except grpc.aio.AioRpcError as failure:
        raise explained(failure) from None
    if opened.file.etag != file.etag:
        call.cancel()
        raise ApiError(ErrorCode.SERVICE_UNAVAILABLE, "The file is being replaced. Try again.")
    return StreamingResponse(_chunks(call, parts), status, headers)


async def _chunks(
    call: grpc.aio.Call, parts: AsyncIterator[GetFileResponse]
) -> AsyncIterator[bytes]:
    try:
        async for part in parts:
            yield part.chunk
    finally:
        call.cancel()


def requested_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte wanted, both inclusive; None: all of it.

    Several ranges, other units and nonsense are ignored, as RFC 9110 section 14.2 allows.
    RANGE_NOT_SATISFIABLE where the range holds no byte of the file.
    """
    match = _RANGE.match(header.strip()) if header else None
    if match is None:
        return None
    start, end, suffix = match.groups()
    if suffix is not None:
        first, last = max(0, size - int(suffix)), size - 1
    else:
        first, last = int(start), min(int(end), size - 1) if end else size - 1
        if end and int(end) < first:
            return None
    if first > last:
        raise ApiError(
            ErrorCode.RANGE_NOT_SATISFIABLE,
            f"The requested range is outside the file of {size} bytes",
            {"size": str(size)},
        )
    return first, last


def content_disposition(filename: str) -> str:
    """An attachment of that name (RFC 6266): quoted, and in full where it is not ASCII."""
    ascii_name = filename.encode("ascii", "replace").decode().replace("?", "_")
    quoted = ascii_name.replace("\\", "\\\\").replace('"', '\\"')
    header = f'attachment; filename="{quoted}"'
    if ascii_name != filename:
        header += f"; filename*=UTF-8''{quote(filename, safe='')}"
    return header


def _headers(file: FileInfo) -> dict[str, str]:
    return {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "ETag": f'"{file.etag}"',
        "Last-Modified": format_datetime(_modified(file), usegmt=True),
    }


def _modified(file: FileInfo) -> datetime:
    return file.created_at.ToDatetime(tzinfo=UTC).replace(microsecond=0)


def _is_unchanged(request: Request, file: FileInfo) -> bool:
    """Whether the client's copy is current (RFC 9110, section 13.2.2)."""
    tags = request.headers.get("if-none-match")
    if tags is not None:
        known = {tag.strip().removeprefix("W/") for tag in tags.split(",")}
        return "*" in known or f'"{file.etag}"' in known
    since = _date(request.headers.get("if-modified-since"))
    return since is not None and _modified(file) <= since


def _range_applies(request: Request, file: FileInfo) -> bool:
    """Whether If-Range, where given, still names the file as it is."""
    condition = request.headers.get("if-range")
    if condition is None:
        return True
    return condition.strip() == f'"{file.etag}"' or _date(condition) == _modified(file)


def _date(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
