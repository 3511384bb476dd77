"""Files from and to the storage service, streamed: memory stays flat whatever their size."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from unirig.v1 import storage_pb2, storage_pb2_grpc

from services.common.errors import ApiError, ErrorCode, api_error_of
from services.common.rpc import open_channel, request_metadata

log = structlog.get_logger(__name__)

SERVICE = "unirig.v1.StorageService"
_CHUNK_BYTES = 512 * 1024
_T = TypeVar("_T")


class StorageClient:
    """Reads a session's files and writes a job's results.

    Every method raises ApiError: what storage refused, or SERVICE_UNAVAILABLE once it has not
    answered for patience_seconds. transfer_seconds is the time limit of one transfer.
    """

    def __init__(self, address: str, *, transfer_seconds: float, patience_seconds: float) -> None:
        self._channel = open_channel(address, SERVICE, ["StatFile", "DeleteJobFiles"])
        self._stub = storage_pb2_grpc.StorageServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._transfer_seconds = transfer_seconds
        self._patience_seconds = patience_seconds

    async def close(self) -> None:
        await self._channel.close()

    async def is_reachable(self) -> bool:
        try:
            answer = await self._health.Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=2
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def describe(self, session_id: str, path: str) -> storage_pb2.FileInfo:
        async def ask() -> storage_pb2.FileInfo:
            request = storage_pb2.StatFileRequest(session_id=session_id, path=path)
            answer = await self._stub.StatFile(request, timeout=10)
            return answer.file

        return await self._persist(ask)

    async def download(self, session_id: str, path: str, destination: Path) -> None:
        """Writes the file to destination, replacing what is there."""

        async def receive() -> None:
            request = storage_pb2.GetFileRequest(session_id=session_id, path=path)
            with await asyncio.to_thread(destination.open, "wb") as file:
                async for part in self._stub.GetFile(
                    request, timeout=self._transfer_seconds, metadata=request_metadata()
                ):
                    if part.WhichOneof("part") == "chunk":
                        await asyncio.to_thread(file.write, part.chunk)

        await self._persist(receive)

    async def upload(
        self, session_id: str, source: Path, filename: str, lineage: storage_pb2.Lineage
    ) -> storage_pb2.FileInfo:
        """Stores source as a result; storage may change the name to make it unique."""

        async def parts() -> AsyncIterator[storage_pb2.PutFileRequest]:
            header = storage_pb2.PutFileHeader(
                session_id=session_id,
                area=storage_pb2.AREA_RESULTS,
                filename=filename,
                lineage=lineage,
            )
            yield storage_pb2.PutFileRequest(header=header)
            with await asyncio.to_thread(source.open, "rb") as file:
                while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                    yield storage_pb2.PutFileRequest(chunk=chunk)
            yield storage_pb2.PutFileRequest(commit=storage_pb2.PutFileCommit())

        async def send() -> storage_pb2.FileInfo:
            answer = await self._stub.PutFile(
                parts(), timeout=self._transfer_seconds, metadata=request_metadata()
            )
            return answer.file

        return await self._persist(send)

    async def discard(self, session_id: str, job_id: str) -> None:
        """Deletes what a cancelled job had stored already; the job's own deletion does it again."""
        request = storage_pb2.DeleteJobFilesRequest(session_id=session_id, job_id=job_id)
        try:
            await self._stub.DeleteJobFiles(request, timeout=5)
        except grpc.aio.AioRpcError as failure:
            log.warning("cannot discard results", failure=failure.code().name)

    async def _persist(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Repeats the call from its start for as long as storage is away: all calls here may be,
        since the same job's result replaces the one of before."""
        deadline, pause = time.monotonic() + self._patience_seconds, 0.2
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as failure:
                error = api_error_of(failure)
                away = error.code is ErrorCode.SERVICE_UNAVAILABLE
                if not away or time.monotonic() + pause > deadline:
                    raise error from failure
                log.info("waiting for storage", failure=failure.code().name)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)


def is_transient(error: ApiError) -> bool:
    """Whether the same call may succeed later: storage is away, full or failed within itself."""
    return error.code in {
        ErrorCode.SERVICE_UNAVAILABLE,
        ErrorCode.STORAGE_FULL,
        ErrorCode.INTERNAL_ERROR,
    }
