"""POST /api/upload: from the client to storage, checked on the way, never held."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
from fastapi import APIRouter, Request
from unirig.v1.sessions_pb2 import ACCESS_UPLOAD
from unirig.v1.storage_pb2 import (
    AREA_UPLOADS,
    FileInfo,
    PutFileCommit,
    PutFileHeader,
    PutFileRequest,
    PutFileResponse,
)

from services.common.errors import ApiError, ErrorCode
from services.common.paths import sanitise_filename
from services.common.rpc import request_metadata
from services.gateway.asset_formats import SUPPORTED, FormatError, sniffer_for
from services.gateway.authorize import AuthorizedRoute, Granted, access
from services.gateway.backends import Backends, explained
from services.gateway.disk_space import refuse_when_full
from services.gateway.multipart import MultipartError, MultipartReader, PartBegin
from services.gateway.openapi import UPLOAD_BODY, answers
from services.gateway.request_log import UPLOAD_BYTES
from services.gateway.schemas import UploadedFile
from services.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    _PutFile = grpc.aio.StreamUnaryCall[PutFileRequest, PutFileResponse]

router = APIRouter(prefix="/api", route_class=AuthorizedRoute, tags=["Files"])

MAX_FILE_BYTES = 100 * 1024 * 1024
# Boundaries, part headers and other fields around the file.
MAX_ENVELOPE_BYTES = 1024 * 1024
_MAX_BODY_BYTES = MAX_FILE_BYTES + MAX_ENVELOPE_BYTES
_CHUNK_BYTES = 256 * 1024
# Storage that takes no chunk, or does not commit, for this long is taken for dead, seconds.
_STORAGE_PATIENCE = 60.0
_INVALID_FORMAT = f"Invalid file format. {SUPPORTED}"


@router.post(
    "/upload",
    openapi_extra=UPLOAD_BODY,
    responses=answers(
        ErrorCode.INVALID_FILE_FORMAT,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.CSRF_TOKEN_MISSING,
        ErrorCode.CSRF_TOKEN_INVALID,
        ErrorCode.FILE_TOO_LARGE,
        ErrorCode.RATE_LIMIT_EXCEEDED,
        ErrorCode.SERVICE_UNAVAILABLE,
        ErrorCode.STORAGE_FULL,
        texts={ErrorCode.RATE_LIMIT_EXCEEDED: "Rate limit exceeded. Maximum 10 uploads per hour."},
    ),
)
@access(ACCESS_UPLOAD)
async def upload(request: Request, granted: Granted) -> UploadedFile:
    """Upload a 3D model: the form's `file`, an OBJ, FBX, GLB or VRM of at most 100 MB.

    The format is checked by the name's extension and by the content. A name that is taken gets a
    number: `model-2.obj`.
    """
    backends: Backends = request.app.state.backends
    settings: GatewaySettings = request.app.state.settings
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > _MAX_BODY_BYTES:
        raise _too_large()
    await refuse_when_full(backends)
    try:
        form = MultipartReader(request.headers.get("content-type", ""))
        stored = await _receive(request, form, granted.session_id, backends, settings)
    except MultipartError as error:
        raise _invalid(str(error)) from error
    return UploadedFile(
        filename=stored.filename,
        path=stored.path,
        size=stored.size,
        mime_type=stored.mime_type,
        uploaded_at=stored.created_at.ToDatetime(),
    )


async def _receive(
    request: Request,
    form: MultipartReader,
    session_id: str,
    backends: Backends,
    settings: GatewaySettings,
) -> FileInfo:
    """Passes the form's file on as it comes; commits it only once the whole form was good."""
    envelope = MAX_ENVELOPE_BYTES
    upload: _Upload | None = None
    in_file = False
    async with contextlib.AsyncExitStack() as stack:
        async for piece in _pieces(request, settings.upload_idle_seconds):
            for event in form.feed(piece):
                if isinstance(event, PartBegin):
                    in_file = event.name == "file" and event.filename is not None
                    if in_file and upload is not None:
                        raise _invalid("The form has more than one file")
                    if in_file:
                        upload = await stack.enter_async_context(
                            _Upload(event.filename or "", session_id, backends, settings)
                        )
                elif in_file and upload is not None:
                    await upload.feed(event.data)
                else:
                    envelope -= len(event.data)
                    if envelope < 0:
                        raise _invalid("The form's other fields are too large")
        if not form.ended:
            raise _invalid("The multipart body ends early")
        if upload is None:
            raise _invalid("The form has no file named 'file'")
        return await upload.commit()


async def _pieces(request: Request, idle_seconds: float) -> AsyncIterator[bytes]:
    stream = request.stream()
    received = 0
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                piece = await anext(stream, None)
        except TimeoutError:
            raise _invalid(f"The upload sent nothing for {idle_seconds:.0f} seconds") from None
        if piece is None:
            return
        received += len(piece)
        if received > _MAX_BODY_BYTES:
            raise _too_large()
        yield piece


class _Upload:
    """One file on its way to storage. Left without a commit, nothing is stored."""

    def __init__(
        self, filename: str, session_id: str, backends: Backends, settings: GatewaySettings
    ) -> None:
        name = sanitise_filename(filename)
        sniffer = sniffer_for(name)
        if sniffer is None:
            raise ApiError(ErrorCode.INVALID_FILE_FORMAT, _INVALID_FORMAT)
        self._name = name
        self._sniffer = sniffer
        self._session_id = session_id
        self._put = backends.storage.PutFile
        self._timeout = settings.transfer_timeout_seconds
        self._call: _PutFile | None = None
        self._waiting = bytearray()
        self._size = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._call is not None:
            self._call.cancel()

    async def feed(self, data: bytes) -> None:
        """Checks the bytes and passes full chunks on, as fast as storage takes them."""
        self._size += len(data)
        UPLOAD_BYTES.inc(len(data))
        if self._size > MAX_FILE_BYTES:
            raise _too_large()
        try:
            self._sniffer.feed(data)
        except FormatError as error:
            raise self._wrong_content(error) from error
        self._waiting += data
        while len(self._waiting) >= _CHUNK_BYTES:
            chunk = bytes(self._waiting[:_CHUNK_BYTES])
            del self._waiting[:_CHUNK_BYTES]
            await self._write(await self._opened(), PutFileRequest(chunk=chunk))

    async def commit(self) -> FileInfo:
        """Stores the file for good."""
        if self._size == 0:
            raise self._wrong_content(FormatError("it is empty"))
        try:
            self._sniffer.finish()
        except FormatError as error:
            raise self._wrong_content(error) from error
        call = await self._opened()
        if self._waiting:
            await self._write(call, PutFileRequest(chunk=bytes(self._waiting)))
        await self._write(call, PutFileRequest(commit=PutFileCommit()))
        return (await _answer(call)).file

    async def _opened(self) -> "_PutFile":
        """The call, its header sent: made when the first bytes are known to be good."""
        if self._call is None:
            self._call = self._put(timeout=self._timeout, metadata=request_metadata())
            header = PutFileHeader(
                session_id=self._session_id, area=AREA_UPLOADS, filename=self._name
            )
            await self._write(self._call, PutFileRequest(header=header))
        return self._call

    async def _write(self, call: "_PutFile", request: PutFileRequest) -> None:
        try:
            async with asyncio.timeout(_STORAGE_PATIENCE):
                await call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # Storage ended the call before the file did; its answer says why.
            await _answer(call)
            raise
        except TimeoutError:
            raise _unavailable() from None

    def _wrong_content(self, error: FormatError) -> ApiError:
        extension = self._name.rpartition(".")[2].lower()
        detail = f"{_INVALID_FORMAT}. This file is not a valid .{extension}: {error}."
        return ApiError(ErrorCode.INVALID_FILE_FORMAT, detail)


async def _answer(call: "_PutFile") -> PutFileResponse:
    try:
        async with asyncio.timeout(_STORAGE_PATIENCE):
            await call.done_writing()
            return await call
    except grpc.aio.AioRpcError as failure:
        raise explained(failure) from None
    except TimeoutError:
        raise _unavailable() from None


def _too_large() -> ApiError:
    return ApiError(ErrorCode.FILE_TOO_LARGE, "File size exceeds maximum allowed size of 100MB")


def _invalid(detail: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, detail)


def _unavailable() -> ApiError:
    return ApiError(
        ErrorCode.SERVICE_UNAVAILABLE,
        "The service is temporarily unavailable. Please try again shortly.",
    )
