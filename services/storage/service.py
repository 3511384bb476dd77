"""The storage service's gRPC interface: what is asked is checked here, kept by a back end."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog
from unirig.v1 import storage_pb2, storage_pb2_grpc

from services.common.errors import ApiError, ErrorCode
from services.common.paths import Area, StoredPath, is_session_id, parse_path, sanitise_filename
from services.storage.back_end import BackEnd, Draft, file_not_found, storage_full
from services.storage.disk_space import DiskSpace, DiskStatus, Thresholds
from services.storage.metrics import (
    BYTES_READ,
    BYTES_WRITTEN,
    DISK_THRESHOLD,
    FILES_DELETED,
    FILES_WRITTEN,
    TRANSFERS,
)
from services.storage.names import mime_type_of
from services.storage.records import Lineage, Record
from services.storage.settings import GIB, MIB, StorageSettings

log = structlog.get_logger(__name__)

_AREAS: dict[int, Area] = {
    storage_pb2.AREA_UPLOADS: "uploads",
    storage_pb2.AREA_RESULTS: "results",
}
_STATUSES = {
    DiskStatus.OK: storage_pb2.DISK_STATUS_OK,
    DiskStatus.WARNING: storage_pb2.DISK_STATUS_WARNING,
    DiskStatus.CRITICAL: storage_pb2.DISK_STATUS_CRITICAL,
}
_PAUSE_SECONDS = 0.2
_JOB_ID = re.compile(r"[0-9A-Za-z._-]{1,64}\Z")


class StorageService(storage_pb2_grpc.StorageServiceServicer):
    def __init__(self, back_end: BackEnd, settings: StorageSettings) -> None:
        self._back_end = back_end
        self._limits: dict[Area, int] = {
            "uploads": settings.max_file_bytes,
            "results": settings.max_result_bytes,
        }
        self._warning_gb = settings.disk_warning_gb
        self._critical_gb = settings.disk_critical_gb
        self._thresholds = Thresholds(self._warning_gb * GIB, self._critical_gb * GIB)
        DISK_THRESHOLD.labels("warning").set(self._thresholds.warning)
        DISK_THRESHOLD.labels("critical").set(self._thresholds.critical)

    async def PutFile(
        self, request_iterator: AsyncIterator[storage_pb2.PutFileRequest], context: Any
    ) -> storage_pb2.PutFileResponse:
        requests = aiter(request_iterator)
        try:
            return await self._put(requests)
        except ApiError:
            await _hear_out(requests, self._limits["uploads"])
            raise

    async def _put(
        self, requests: AsyncIterator[storage_pb2.PutFileRequest]
    ) -> storage_pb2.PutFileResponse:
        wanted, lineage = _read_header(await anext(requests, None))
        self._check_room(wanted.area, await self._back_end.space())
        with TRANSFERS.labels("in").track_inprogress():
            async with self._back_end.receive(wanted.session_id) as draft:
                size, etag = await self._fill(draft, requests, wanted.area)
                record = Record(size, datetime.now(UTC), etag, lineage)
                path = await draft.publish(wanted, record)
        FILES_WRITTEN.labels(path.area).inc()
        maker = {"job_id": lineage.job_id} if lineage else {}
        log.info("file stored", session_id=path.session_id, **maker, area=path.area, bytes=size)
        return storage_pb2.PutFileResponse(file=_file_info(path, record))

    async def GetFile(
        self, request: storage_pb2.GetFileRequest, context: Any
    ) -> AsyncIterator[storage_pb2.GetFileResponse]:
        path = _own_path(request.session_id, request.path)
        if request.offset < 0 or request.length < 0:
            raise ApiError(ErrorCode.INVALID_REQUEST, "offset and length must not be negative")
        with TRANSFERS.labels("out").track_inprogress():
            async with self._back_end.read(path, request.offset, request.length) as found:
                record, pieces = found
                yield storage_pb2.GetFileResponse(file=_file_info(path, record))
                async for piece in pieces:
                    BYTES_READ.labels(path.area).inc(len(piece))
                    yield storage_pb2.GetFileResponse(chunk=piece)

    async def StatFile(
        self, request: storage_pb2.StatFileRequest, context: Any
    ) -> storage_pb2.StatFileResponse:
        path = _own_path(request.session_id, request.path)
        record = await self._back_end.find(path)
        return storage_pb2.StatFileResponse(file=_file_info(path, record))

    async def GetUsage(
        self, request: storage_pb2.GetUsageRequest, context: Any
    ) -> storage_pb2.GetUsageResponse:
        usage = await self._back_end.usage(_session_id(request.session_id))
        return storage_pb2.GetUsageResponse(
            uploads=usage.uploads, results=usage.results, bytes=usage.size
        )

    async def DeleteJobFiles(
        self, request: storage_pb2.DeleteJobFilesRequest, context: Any
    ) -> storage_pb2.DeleteJobFilesResponse:
        session_id, job_id = _session_id(request.session_id), _job_id(request.job_id)
        freed = await self._back_end.delete_job(session_id, job_id)
        FILES_DELETED.inc(freed.files)
        log.info("files deleted", session_id=session_id, job_id=job_id, files=freed.files)
        return storage_pb2.DeleteJobFilesResponse(files_deleted=freed.files, bytes_freed=freed.size)

    async def DeleteSessionFiles(
        self, request: storage_pb2.DeleteSessionFilesRequest, context: Any
    ) -> storage_pb2.DeleteSessionFilesResponse:
        session_id = _session_id(request.session_id)
        freed = await self._back_end.delete_session(session_id)
        FILES_DELETED.inc(freed.files)
        log.info("files deleted", session_id=session_id, files=freed.files)
        return storage_pb2.DeleteSessionFilesResponse(
            files_deleted=freed.files, bytes_freed=freed.size
        )

    async def GetDiskSpace(
        self, request: storage_pb2.GetDiskSpaceRequest, context: Any
    ) -> storage_pb2.GetDiskSpaceResponse:
        space = await self._back_end.space()
        return storage_pb2.GetDiskSpaceResponse(
            total=space.total,
            used=space.used,
            free=space.free,
            status=_STATUSES[self._thresholds.status_of(space)],
            warning_threshold_gb=self._warning_gb,
            critical_threshold_gb=self._critical_gb,
        )

    def _check_room(self, area: Area, space: DiskSpace) -> None:
        is_critical = self._thresholds.status_of(space) is DiskStatus.CRITICAL
        if space.free == 0 or (is_critical and area == "uploads"):
            raise storage_full()

    async def _fill(
        self, draft: Draft, requests: AsyncIterator[storage_pb2.PutFileRequest], area: Area
    ) -> tuple[int, str]:
        """Writes the chunks as they come. Returns the size and the SHA-256 in hex."""
        limit = self._limits[area]
        size, digest = 0, hashlib.sha256()
        is_whole = False
        async for request in requests:
            part = request.WhichOneof("part")
            if is_whole or part not in ("chunk", "commit"):
                detail = "After the header come chunks, then the commit"
                raise ApiError(ErrorCode.INVALID_REQUEST, detail)
            if part == "commit":
                is_whole = True
                continue
            size += len(request.chunk)
            if size > limit:
                detail = f"File size exceeds maximum allowed size of {limit / MIB:g}MB"
                raise ApiError(ErrorCode.FILE_TOO_LARGE, detail)
            digest.update(request.chunk)
            await draft.write(request.chunk)
            BYTES_WRITTEN.labels(area).inc(len(request.chunk))
        if not is_whole:
            raise ApiError(ErrorCode.INVALID_REQUEST, "The stream ended without its commit")
        return size, digest.hexdigest()


async def _hear_out(requests: AsyncIterator[storage_pb2.PutFileRequest], limit: int) -> None:
    """Reads on until the client ends, pauses, or has sent limit bytes more.

    Python's asyncio client takes a write that the answer overtakes for an internal error, and the
    answer is lost (github.com/grpc/grpc/issues/36066).
    """
    size = 0
    with suppress(TimeoutError):
        while size < limit:
            async with asyncio.timeout(_PAUSE_SECONDS):
                request = await anext(requests, None)
            if request is None:
                return
            size += len(request.chunk)


def _read_header(request: storage_pb2.PutFileRequest | None) -> tuple[StoredPath, Lineage | None]:
    """The wanted path, its name sanitised, and a result's lineage. INVALID_REQUEST."""
    if request is None or request.WhichOneof("part") != "header":
        raise ApiError(ErrorCode.INVALID_REQUEST, "The first message must be the header")
    header = request.header
    area = _AREAS.get(header.area)
    if area is None:
        raise ApiError(ErrorCode.INVALID_REQUEST, "The header must name an area")
    session_id = _session_id(header.session_id)
    path = StoredPath(area, session_id, sanitise_filename(header.filename))
    return path, _read_lineage(header.lineage, session_id) if area == "results" else None


def _read_lineage(lineage: storage_pb2.Lineage, session_id: str) -> Lineage:
    for text in (lineage.asset_path, lineage.arrays_path):
        path = parse_path(text)
        if text and (path is None or path.session_id != session_id):
            raise ApiError(ErrorCode.INVALID_REQUEST, "A lineage names files of its own session")
    if len(lineage.stage) > 64:
        raise ApiError(ErrorCode.INVALID_REQUEST, "No such stage")
    return Lineage(
        job_id=_job_id(lineage.job_id),
        stage=lineage.stage,
        asset_path=lineage.asset_path,
        arrays_path=lineage.arrays_path,
    )


def _session_id(text: str) -> str:
    if not is_session_id(text):
        raise ApiError(ErrorCode.INVALID_REQUEST, "A session id has 32 hex digits")
    return text


def _job_id(text: str) -> str:
    if not _JOB_ID.match(text):
        raise ApiError(ErrorCode.INVALID_REQUEST, "A job id is needed")
    return text


def _own_path(session_id: str, text: str) -> StoredPath:
    """Whose path it is must not show: another session's file is just not found."""
    path = parse_path(text)
    if path is None or path.session_id != session_id:
        raise file_not_found()
    return path


def _file_info(path: StoredPath, record: Record) -> storage_pb2.FileInfo:
    info = storage_pb2.FileInfo(
        path=str(path),
        filename=path.filename,
        size=record.size,
        mime_type=mime_type_of(path.filename),
        etag=record.etag,
    )
    info.created_at.FromDatetime(record.created_at)
    if record.lineage is not None:
        info.lineage.CopyFrom(
            storage_pb2.Lineage(
                job_id=record.lineage.job_id,
                stage=record.lineage.stage,
                asset_path=record.lineage.asset_path,
                arrays_path=record.lineage.arrays_path,
            )
        )
    return info
