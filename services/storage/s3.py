"""Files in a bucket of any S3-compatible server.

    uploads/<session>/<name>    a small JSON object: the file's record and the key of its bytes.
    results/<session>/<name>      A file is there when this entry is: one atomic, conditional put
    data/<session>/<random>     the bytes, written once; what a crash leaves here without an entry
                                  goes with its session
    ended/<session>             an empty mark: the session has ended and gets no new files

User metadata is not used: it cannot change together with the name, and not every server keeps it.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar
from weakref import WeakValueDictionary

import aiohttp
import structlog
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import TypeAdapter

from services.common.errors import ApiError
from services.common.paths import StoredPath
from services.storage.back_end import (
    ENDED_KEPT,
    READ_BYTES,
    Freed,
    Usage,
    byte_range,
    file_not_found,
    session_ended,
    storage_full,
    storage_unavailable,
)
from services.storage.disk_space import DiskSpace
from services.storage.names import numbered_names
from services.storage.records import Record
from services.storage.settings import GIB, StorageSettings
from services.storage.threads import finish, finish_in_thread

log = structlog.get_logger(__name__)

T = TypeVar("T")

# All parts but the last have this size: the least that S3 takes, and some servers want them equal.
PART_BYTES = 5 * 1024 * 1024
_MAX_CONNECTIONS = 100
_PARALLEL_REQUESTS = 16
# How long the sum of all sizes is taken for true, seconds.
_SPACE_SECONDS = 60
_UNFINISHED_KEPT = timedelta(hours=24)
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "507"})
# Another writer was first: what the entry is now must be looked up again.
_LOST = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_NOT_IMPLEMENTED = frozenset({"NotImplemented", "501"})


@dataclass(frozen=True)
class _Entry:
    record: Record
    data_key: str


@dataclass(frozen=True)
class _Object:
    key: str
    size: int
    modified: datetime


_ENTRY_JSON = TypeAdapter(_Entry)


@asynccontextmanager
async def open_s3(settings: StorageSettings) -> AsyncIterator["S3BackEnd"]:
    """The back end as long as the block runs. Connects at the first request."""
    config = AioConfig(
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=_MAX_CONNECTIONS,
        retries={"mode": "standard", "max_attempts": 4},
        # Servers other than AWS have names for the server, not for each bucket, and not all know
        # the newer checksums.
        s3={"addressing_style": "path" if settings.s3_endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    async with get_session().create_client(
        "s3", region_name=settings.s3_region, endpoint_url=settings.s3_endpoint, config=config
    ) as client:
        yield S3BackEnd(client, settings.s3_bucket, int(settings.s3_quota_gb * GIB))


class S3BackEnd:
    """Keeps files in a bucket, shared by all replicas."""

    def __init__(self, client: Any, bucket: str, quota_bytes: int) -> None:
        self._client = client
        self._bucket = bucket
        self._quota_bytes = quota_bytes
        self._space = DiskSpace(quota_bytes, 0, quota_bytes)
        self._space_until = 0.0
        self._space_lock = asyncio.Lock()
        # For servers that ignore conditions: at least this replica agrees with itself.
        self._names: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def check(self) -> None:
        with _explained():
            await self._client.head_bucket(Bucket=self._bucket)

    @asynccontextmanager
    async def receive(self, session_id: str) -> "AsyncIterator[_S3Draft]":
        with _explained():
            if await self._has_ended(session_id):
                raise session_ended()
        key = f"data/{session_id}/{secrets.token_hex(16)}"
        draft = _S3Draft(self, self._client, self._bucket, key)
        try:
            yield draft
        finally:
            await finish(draft.discard())

    async def find(self, path: StoredPath) -> Record:
        with _explained():
            return (await self._existing_entry(path)).record

    @asynccontextmanager
    async def read(
        self, path: StoredPath, offset: int, length: int
    ) -> AsyncIterator[tuple[Record, AsyncIterator[bytes]]]:
        with _explained():
            record, body = await self._open(path, offset, length)
        try:
            yield record, _pieces(body)
        finally:
            if body is not None:
                body.close()

    async def usage(self, session_id: str) -> Usage:
        with _explained():
            uploads, results, data = await asyncio.gather(
                *(self._list(f"{place}/{session_id}/") for place in ("uploads", "results", "data"))
            )
        return Usage(len(uploads), len(results), sum(item.size for item in data))

    async def delete_job(self, session_id: str, job_id: str) -> Freed:
        with _explained():
            keys = [item.key for item in await self._list(f"results/{session_id}/")]
            entries = await self._each(self._entry, keys)
            own = {
                key: entry
                for key, entry in zip(keys, entries, strict=True)
                if entry is not None and entry.record.is_of_job(job_id)
            }
            await self._each(self._delete, own)
            await self._each(self._delete, [entry.data_key for entry in own.values()])
        return Freed(len(own), sum(entry.record.size for entry in own.values()))

    async def delete_session(self, session_id: str) -> Freed:
        with _explained():
            await self._client.put_object(Bucket=self._bucket, Key=f"ended/{session_id}", Body=b"")
            return await self._delete_files(session_id)

    async def space(self) -> DiskSpace:
        loop = asyncio.get_running_loop()
        async with self._space_lock:
            if loop.time() >= self._space_until:
                with _explained():
                    used = sum(item.size for item in await self._list("data/"))
                free = max(0, self._quota_bytes - used)
                self._space = DiskSpace(self._quota_bytes, self._quota_bytes - free, free)
                self._space_until = loop.time() + _SPACE_SECONDS
        return self._space

    async def sweep(self) -> None:
        now = datetime.now(UTC)
        with _explained():
            for mark in await self._list("ended/"):
                if now - mark.modified > ENDED_KEPT:
                    # What a crash left after the end goes before the end is forgotten.
                    await self._delete_files(mark.key.removeprefix("ended/"))
                    await self._delete(mark.key)
            for upload in await self._unfinished_uploads():
                if now - upload["Initiated"] > _UNFINISHED_KEPT:
                    await self._client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )

    async def _unfinished_uploads(self) -> list[dict[str, Any]]:
        """Up to a thousand; the next sweep finds the others."""
        try:
            listing = await self._client.list_multipart_uploads(Bucket=self._bucket, Prefix="data/")
        except ClientError as error:
            # Some servers answer so where there are none, others cannot list them.
            if _code(error) in _NOT_IMPLEMENTED | {"NoSuchUpload"}:
                return []
            raise
        return list(listing.get("Uploads", []))

    async def _delete(self, key: str) -> None:
        await self._client.delete_object(Bucket=self._bucket, Key=key)

    async def enter(self, wanted: StoredPath, entry: _Entry) -> StoredPath:
        """Gives bytes that are in the bucket their name."""
        async with self._names.setdefault(wanted.session_id, asyncio.Lock()):
            for name in numbered_names(wanted.filename):
                path = StoredPath(wanted.area, wanted.session_id, name)
                if await self._claim(_key(path), entry):
                    break
        # The mark is set before the files are listed for deletion, so one of the two sees the
        # other.
        if await self._has_ended(wanted.session_id):
            await self._delete(_key(path))
            raise session_ended()
        return path

    async def _claim(self, key: str, entry: _Entry) -> bool:
        """Puts the entry unless another file has the name."""
        while True:
            found = await self._entry_and_etag(key)
            if found is None:
                condition = {"IfNoneMatch": "*"}
            elif found[0].data_key == entry.data_key:
                # A put that was answered too late and sent again.
                return True
            elif entry.record.replaces(found[0].record):
                condition = {"IfMatch": found[1]}
            else:
                return False
            if await self._put_entry(key, entry, condition):
                if found is not None:
                    await self._delete(found[0].data_key)
                return True

    async def _put_entry(self, key: str, entry: _Entry, condition: dict[str, str]) -> bool:
        body = _ENTRY_JSON.dump_json(entry)
        try:
            await self._client.put_object(Bucket=self._bucket, Key=key, Body=body, **condition)
        except ClientError as error:
            if _code(error) in _LOST | _MISSING:
                return False
            if _code(error) not in _NOT_IMPLEMENTED:
                raise
            await self._client.put_object(Bucket=self._bucket, Key=key, Body=body)
        return True

    async def _entry_and_etag(self, key: str) -> tuple[_Entry, str] | None:
        try:
            answer = await self._client.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if _code(error) in _MISSING:
                return None
            raise
        async with answer["Body"] as body:
            return _ENTRY_JSON.validate_json(await body.read()), answer["ETag"]

    async def _entry(self, key: str) -> _Entry | None:
        found = await self._entry_and_etag(key)
        return found[0] if found else None

    async def _existing_entry(self, path: StoredPath) -> _Entry:
        entry = await self._entry(_key(path))
        if entry is None:
            raise file_not_found()
        return entry

    async def _open(self, path: StoredPath, offset: int, length: int) -> tuple[Record, Any]:
        """The record and the body of its bytes, None where none are wanted."""
        while True:
            entry = await self._existing_entry(path)
            first, end = byte_range(entry.record.size, offset, length)
            if first == end:
                return entry.record, None
            try:
                answer = await self._client.get_object(
                    Bucket=self._bucket, Key=entry.data_key, Range=f"bytes={first}-{end - 1}"
                )
            except ClientError as error:
                # Replaced between the two requests, unless the entry still says the same.
                if _code(error) in _MISSING and await self._entry(_key(path)) != entry:
                    continue
                raise
            return entry.record, answer["Body"]

    async def _has_ended(self, session_id: str) -> bool:
        try:
            await self._client.head_object(Bucket=self._bucket, Key=f"ended/{session_id}")
        except ClientError as error:
            if _code(error) in _MISSING:
                return False
            raise
        return True

    async def _delete_files(self, session_id: str) -> Freed:
        entries = [
            item
            for area in ("uploads", "results")
            for item in await self._list(f"{area}/{session_id}/")
        ]
        data = await self._list(f"data/{session_id}/")
        await self._each(self._delete, [item.key for item in entries])
        await self._each(self._delete, [item.key for item in data])
        return Freed(len(entries), sum(item.size for item in data))

    async def _list(self, prefix: str) -> list[_Object]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        return [
            _Object(item["Key"], item["Size"], item["LastModified"])
            async for page in pages
            for item in page.get("Contents", [])
        ]

    async def _each(self, action: Callable[[str], Awaitable[T]], keys: Iterable[str]) -> list[T]:
        """The action for each key, some at a time; their results in the keys' order."""
        slots = asyncio.Semaphore(_PARALLEL_REQUESTS)

        async def one(key: str) -> T:
            async with slots:
                return await action(key)

        return await asyncio.gather(*(one(key) for key in keys))


class _S3Draft:
    def __init__(self, back_end: S3BackEnd, client: Any, bucket: str, key: str) -> None:
        self._back_end = back_end
        self._client = client
        self._key = key
        self._object = {"Bucket": bucket, "Key": key}
        # The part that is being filled: on disk, so that memory stays flat however many clients
        # send however slowly.
        self._part: IO[bytes] | None = None
        self._part_size = 0
        self._upload_id = ""
        self._parts: list[dict[str, Any]] = []
        # Whether the object may exist; a put that was cut short may still have succeeded.
        self._is_stored = False
        self._is_published = False

    async def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            piece = rest[: PART_BYTES - self._part_size]
            await finish_in_thread(self._fill, piece)
            rest = rest[len(piece) :]
            if self._part_size == PART_BYTES:
                # Left in the middle, the store could keep what can't be aborted by its id.
                with _explained():
                    await finish(self._send_part())

    async def publish(self, wanted: StoredPath, record: Record) -> StoredPath:
        with _explained():
            if self._upload_id:
                await self._complete()
            else:
                self._is_stored = True
                await self._client.put_object(**self._object, Body=self._rewound())
            path = await self._back_end.enter(wanted, _Entry(record, self._key))
        self._is_published = True
        return path

    async def discard(self) -> None:
        """Removes what was sent, unless it was published."""
        if self._part is not None:
            await finish_in_thread(self._part.close)
        if self._is_published:
            return
        try:
            with _explained():
                if self._upload_id:
                    await self._client.abort_multipart_upload(
                        **self._object, UploadId=self._upload_id
                    )
                if self._is_stored:
                    await self._client.delete_object(**self._object)
        except ApiError:
            log.warning("an unfinished file stays until its session ends", key=self._key)

    def _fill(self, piece: memoryview) -> None:
        if self._part is None:
            self._part = TemporaryFile(buffering=0)  # noqa: SIM115 - discard closes it
        if self._part_size == 0:
            self._part.seek(0)
            self._part.truncate()
        while piece:
            written = self._part.write(piece)
            self._part_size += written
            piece = piece[written:]

    async def _send_part(self) -> None:
        if not self._upload_id:
            answer = await self._client.create_multipart_upload(**self._object)
            self._upload_id = answer["UploadId"]
        number = len(self._parts) + 1
        answer = await self._client.upload_part(
            **self._object, UploadId=self._upload_id, PartNumber=number, Body=self._rewound()
        )
        self._parts.append({"ETag": answer["ETag"], "PartNumber": number})
        self._part_size = 0

    def _rewound(self) -> IO[bytes] | bytes:
        if self._part is None:
            return b""
        self._part.seek(0)
        return self._part

    async def _complete(self) -> None:
        if self._part_size:
            await self._send_part()
        self._is_stored = True
        await self._client.complete_multipart_upload(
            **self._object, UploadId=self._upload_id, MultipartUpload={"Parts": self._parts}
        )
        self._upload_id = ""


def _key(path: StoredPath) -> str:
    return str(path).removeprefix("/")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _explained() -> Iterator[None]:
    """Turns the client's failures into what they mean to the caller."""
    try:
        yield
    except ClientError as error:
        if _code(error) in _FULL:
            raise storage_full() from error
        log.error("the object store refuses", code=_code(error), operation=error.operation_name)
        raise storage_unavailable() from error
    except (BotoCoreError, aiohttp.ClientError, TimeoutError, OSError) as error:
        log.warning("the object store does not answer", error=type(error).__name__)
        raise storage_unavailable() from error


async def _pieces(body: Any) -> AsyncIterator[bytes]:
    if body is not None:
        with _explained():
            async for piece in body.iter_chunks(READ_BYTES):
                yield piece
