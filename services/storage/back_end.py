"""What a place that keeps files can do. Two exist: filesystem.py and s3.py.

A file is there whole, with its record, or not at all: what a crash or a cancelled call leaves is
never visible and is swept later. Once published a file never changes; a reader keeps the bytes it
began with when the file is replaced or deleted meanwhile.

Failures are ApiErrors: STORAGE_FULL where there is no room, SERVICE_UNAVAILABLE where the place
cannot be reached.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from services.common.errors import ApiError, ErrorCode
from services.common.paths import StoredPath
from services.storage.disk_space import DiskSpace
from services.storage.records import Record

# How long an ended session is remembered, to refuse what a dying worker still writes for it.
ENDED_KEPT = timedelta(hours=48)
# Bytes of a piece that is read; between the 256 KiB and 1 MiB of the contract.
READ_BYTES = 512 * 1024


@dataclass(frozen=True)
class Usage:
    """What a session keeps: files in each area, bytes of both."""

    uploads: int
    results: int
    size: int


@dataclass(frozen=True)
class Freed:
    """What a deletion removed."""

    files: int
    size: int


class Draft(Protocol):
    """A file on its way in, visible to nobody."""

    async def write(self, chunk: bytes) -> None:
        """Appends."""

    async def publish(self, wanted: StoredPath, record: Record) -> StoredPath:
        """Makes the file durable and visible, whole, under the wanted name or its next free number.

        A name that holds a result of the same job is replaced; another file never is.
        SESSION_NOT_FOUND where the session has ended.
        """


class BackEnd(Protocol):
    async def check(self) -> None:
        """Returns where files can be read and written now."""

    def receive(self, session_id: str) -> AbstractAsyncContextManager[Draft]:
        """A new file for the session; left without publish, nothing of it stays.

        SESSION_NOT_FOUND where the session has ended.
        """

    async def find(self, path: StoredPath) -> Record:
        """FILE_NOT_FOUND where there is none."""

    def read(
        self, path: StoredPath, offset: int, length: int
    ) -> AbstractAsyncContextManager[tuple[Record, AsyncIterator[bytes]]]:
        """The record and the wanted bytes in pieces of READ_BYTES at most.

        offset and length as for byte_range. FILE_NOT_FOUND, RANGE_NOT_SATISFIABLE.
        """

    async def usage(self, session_id: str) -> Usage: ...

    async def delete_job(self, session_id: str, job_id: str) -> Freed:
        """Deletes the job's results. Idempotent."""

    async def delete_session(self, session_id: str) -> Freed:
        """Deletes all of the session's files and refuses new ones from now on. Idempotent."""

    async def space(self) -> DiskSpace: ...

    async def sweep(self) -> None:
        """Removes what crashes left, and forgets sessions that ended ENDED_KEPT ago."""


def byte_range(size: int, offset: int, length: int) -> tuple[int, int]:
    """First byte and end of the wanted part; a length of 0 reaches to the file's end.

    RANGE_NOT_SATISFIABLE for an offset that is not in the file; 0 always is.
    """
    if offset and offset >= size:
        detail = f"The file has {size} bytes; byte {offset} is past its end"
        raise ApiError(ErrorCode.RANGE_NOT_SATISFIABLE, detail, {"size": str(size)})
    return offset, size if length == 0 else min(size, offset + length)


def file_not_found() -> ApiError:
    return ApiError(ErrorCode.FILE_NOT_FOUND, "File not found")


def session_ended() -> ApiError:
    return ApiError(ErrorCode.SESSION_NOT_FOUND, "Session not found")


def storage_full() -> ApiError:
    return ApiError(ErrorCode.STORAGE_FULL, "The storage is full. Please try again later.")


def storage_unavailable() -> ApiError:
    detail = "The storage is temporarily unavailable. Please try again shortly."
    return ApiError(ErrorCode.SERVICE_UNAVAILABLE, detail)
