"""Files on a volume.

uploads/<session>/<name>    the bytes, then their record as JSON padded to TRAILER_BYTES:
results/<session>/<name>      one inode, so that both appear, move and go together
incoming/<random>           drafts; one whose lock nobody holds is a crash's and is swept
ended/<session>             an empty mark: the session has ended and gets no new files
names.lock                  held while names are given or taken, so that replicas that share
                              the volume agree
"""

import asyncio
import errno
import fcntl
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import structlog

from services.common.paths import StoredPath
from services.storage.back_end import (
    ENDED_KEPT,
    READ_BYTES,
    Freed,
    Usage,
    byte_range,
    file_not_found,
    session_ended,
    storage_unavailable,
)
from services.storage.disk_space import DiskSpace
from services.storage.names import numbered_names
from services.storage.records import Record, decode_record, encode_record
from services.storage.threads import finish_in_thread

log = structlog.get_logger(__name__)

TRAILER_BYTES = 4096
_AREAS = ("uploads", "results")


class FilesystemBackEnd:
    """Keeps files in a folder. Several processes may use the same one."""

    def __init__(self, folder: Path) -> None:
        """Makes what is missing in the folder. OSError where that is not possible."""
        self._folder = folder
        self._incoming = folder / "incoming"
        self._ended = folder / "ended"
        for place in (self._incoming, self._ended, *(folder / area for area in _AREAS)):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600))
        _sync_folder(folder)

    async def check(self) -> None:
        if not await finish_in_thread(os.access, self._incoming, os.R_OK | os.W_OK | os.X_OK):
            raise storage_unavailable()

    @asynccontextmanager
    async def receive(self, session_id: str) -> "AsyncIterator[_FileDraft]":
        if await asyncio.to_thread(self._has_ended, session_id):
            raise session_ended()
        draft = _FileDraft(self, self._incoming / secrets.token_hex(16))
        try:
            await finish_in_thread(draft.open)
            yield draft
        finally:
            await finish_in_thread(draft.discard)

    async def find(self, path: StoredPath) -> Record:
        return await finish_in_thread(self._find, path)

    @asynccontextmanager
    async def read(
        self, path: StoredPath, offset: int, length: int
    ) -> AsyncIterator[tuple[Record, AsyncIterator[bytes]]]:
        reader = _Reader(self._place_of(path))
        try:
            record = await finish_in_thread(reader.open)
            yield record, reader.pieces(*byte_range(record.size, offset, length))
        finally:
            await finish_in_thread(reader.close)

    async def usage(self, session_id: str) -> Usage:
        return await finish_in_thread(self._usage, session_id)

    async def delete_job(self, session_id: str, job_id: str) -> Freed:
        return await finish_in_thread(self._delete_job, session_id, job_id)

    async def delete_session(self, session_id: str) -> Freed:
        return await finish_in_thread(self._delete_session, session_id)

    async def space(self) -> DiskSpace:
        volume = await finish_in_thread(os.statvfs, self._incoming)
        total, free = volume.f_blocks * volume.f_frsize, volume.f_bavail * volume.f_frsize
        return DiskSpace(total=total, used=total - free, free=free)

    async def sweep(self) -> None:
        await finish_in_thread(self._sweep)

    def publish(self, draft: "_FileDraft", wanted: StoredPath, record: Record) -> StoredPath:
        """Gives a draft that is safely on disk its name."""
        folder = self._place_of(wanted).parent
        with self._names_locked():
            if self._has_ended(wanted.session_id):
                raise session_ended()
            if not folder.exists():
                folder.mkdir(mode=0o700)
                _sync_folder(folder.parent)
            for name in numbered_names(wanted.filename):
                place = folder / name
                try:
                    os.link(draft.place, place)
                except FileExistsError:
                    if not record.replaces(_record_at(place)):
                        continue
                    os.replace(draft.place, place)
                break
            _sync_folder(folder)
        return StoredPath(wanted.area, wanted.session_id, name)

    @property
    def _lock(self) -> Path:
        return self._folder / "names.lock"

    def _place_of(self, path: StoredPath) -> Path:
        return self._folder / path.area / path.session_id / path.filename

    def _has_ended(self, session_id: str) -> bool:
        return (self._ended / session_id).exists()

    @contextmanager
    def _names_locked(self) -> Iterator[None]:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _find(self, path: StoredPath) -> Record:
        return _record_at(self._place_of(path))

    def _usage(self, session_id: str) -> Usage:
        sizes = {
            area: [entry.stat().st_size for entry in _files(self._folder / area / session_id)]
            for area in _AREAS
        }
        uploads, results = len(sizes["uploads"]), len(sizes["results"])
        with_trailers = sum(sizes["uploads"]) + sum(sizes["results"])
        return Usage(uploads, results, with_trailers - (uploads + results) * TRAILER_BYTES)

    def _delete_job(self, session_id: str, job_id: str) -> Freed:
        folder = self._folder / "results" / session_id
        with self._names_locked():
            return _delete(folder, lambda place: _record_at(place).is_of_job(job_id))

    def _delete_session(self, session_id: str) -> Freed:
        with self._names_locked():
            # Room first: on a full disk even the mark needs some.
            freed = [_delete(self._folder / area / session_id, lambda _: True) for area in _AREAS]
            mark = self._ended / session_id
            if not mark.exists():
                mark.touch(0o600)
                _sync_folder(self._ended)
        return Freed(sum(part.files for part in freed), sum(part.size for part in freed))

    def _sweep(self) -> None:
        for draft in _files(self._incoming):
            with suppress(FileNotFoundError), open(draft.path, "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                os.unlink(draft.path)
                log.info("swept an unfinished file", size=draft.stat().st_size)
        oldest = time.time() - ENDED_KEPT.total_seconds()
        for mark in _files(self._ended):
            with suppress(FileNotFoundError):
                if mark.stat().st_mtime < oldest:
                    os.unlink(mark.path)


class _FileDraft:
    def __init__(self, back_end: FilesystemBackEnd, place: Path) -> None:
        self.place = place
        self._back_end = back_end
        self._descriptor = -1

    def open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self.place, flags, 0o600)
        # Tells a sweeping replica that this draft is alive. One that came just between the two
        # lines took the name away, and publish fails.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    async def write(self, chunk: bytes) -> None:
        await finish_in_thread(_write_all, self._descriptor, chunk)

    async def publish(self, wanted: StoredPath, record: Record) -> StoredPath:
        # Two steps: the first is the slow one, and a call that is cancelled in it ends there.
        await finish_in_thread(self._complete, record)
        return await finish_in_thread(self._back_end.publish, self, wanted, record)

    def discard(self) -> None:
        """Takes the draft's own name away; a published file has another."""
        self.place.unlink(missing_ok=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _complete(self, record: Record) -> None:
        _write_all(self._descriptor, encode_record(record).ljust(TRAILER_BYTES))
        os.fsync(self._descriptor)


class _Reader:
    """An open file: the bytes stay, whatever becomes of the name."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._descriptor = -1

    def open(self) -> Record:
        self._descriptor = _open(self._place)
        return _read_record(self._descriptor)

    async def pieces(self, position: int, end: int) -> AsyncIterator[bytes]:
        while position < end:
            wanted = min(READ_BYTES, end - position)
            piece = await finish_in_thread(os.pread, self._descriptor, wanted, position)
            if not piece:
                raise OSError(errno.EIO, "the file is shorter than its record says")
            position += len(piece)
            yield piece

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _open(place: Path) -> int:
    try:
        return os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise file_not_found() from None


def _read_record(descriptor: int) -> Record:
    size = os.fstat(descriptor).st_size - TRAILER_BYTES
    return decode_record(os.pread(descriptor, TRAILER_BYTES, size))


def _record_at(place: Path) -> Record:
    descriptor = _open(place)
    try:
        return _read_record(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _delete(folder: Path, is_meant: Callable[[Path], bool]) -> Freed:
    """Deletes files of the folder, and the folder once it is empty."""
    files = size = 0
    for entry in _files(folder):
        if is_meant(Path(entry.path)):
            size += entry.stat().st_size - TRAILER_BYTES
            files += 1
            os.unlink(entry.path)
    if files:
        _sync_folder(folder)
    with suppress(OSError):
        folder.rmdir()
    return Freed(files, size)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
