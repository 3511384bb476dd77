"""What crashes leave behind goes; what is alive stays."""

import os
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.common.errors import ApiError, ErrorCode
from services.common.paths import StoredPath
from services.storage.filesystem import FilesystemBackEnd
from services.storage.records import Record
from services.storage.s3 import S3BackEnd, open_s3
from services.storage.settings import StorageSettings
from tests.storage_server import S3Server, session

LONG_AGO = time.time() - 49 * 3600
SHORTLY_AGO = time.time() - 47 * 3600


async def store(back_end: FilesystemBackEnd | S3BackEnd, session_id: str) -> StoredPath:
    async with back_end.receive(session_id) as draft:
        await draft.write(b"bytes")
        record = Record(5, datetime.now(UTC), "", None)
        return await draft.publish(StoredPath("uploads", session_id, "model.obj"), record)


async def assert_refused(back_end: FilesystemBackEnd | S3BackEnd, session_id: str) -> None:
    with pytest.raises(ApiError) as refusal:
        await store(back_end, session_id)
    assert refusal.value.code is ErrorCode.SESSION_NOT_FOUND


async def test_a_dead_writers_file_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    back_end = FilesystemBackEnd(tmp_path)
    dead = tmp_path / "incoming" / "0123"
    dead.write_bytes(b"half a fi")
    async with back_end.receive(session()) as draft:
        await draft.write(b"by")
        # As a replica that starts now does.
        await FilesystemBackEnd(tmp_path).sweep()
        assert not dead.exists()
        await draft.write(b"tes")
        path = StoredPath("uploads", session(), "model.obj")
        record = Record(5, datetime.now(UTC), "", None)
        assert await draft.publish(path, record) == path
    assert await back_end.find(path) == record
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_an_ended_session_is_remembered_for_48_hours(tmp_path: Path) -> None:
    back_end = FilesystemBackEnd(tmp_path)
    old, recent = session(), session()
    for session_id, when in ((old, LONG_AGO), (recent, SHORTLY_AGO)):
        await back_end.delete_session(session_id)
        os.utime(tmp_path / "ended" / session_id, (when, when))
    await back_end.sweep()
    await assert_refused(back_end, recent)
    assert [mark.name for mark in (tmp_path / "ended").iterdir()] == [recent]


async def test_deleted_sessions_leave_no_folders(tmp_path: Path) -> None:
    back_end = FilesystemBackEnd(tmp_path)
    path = await store(back_end, session())
    assert (tmp_path / "uploads" / path.session_id).is_dir()
    await back_end.delete_session(path.session_id)
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    server = S3Server(tmp_path / "objects")
    yield server
    server.kill()


@pytest.fixture
async def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3BackEnd]:
    for name, value in s3.settings.items():
        monkeypatch.setenv(name, value)
    async with open_s3(StorageSettings()) as back_end:
        yield back_end


async def test_what_is_left_of_an_ended_session_in_a_bucket_goes_with_its_mark(
    s3: S3Server, bucket: S3BackEnd
) -> None:
    old, recent = session(), session()
    objects = s3.folder / "rigs"
    for session_id, when in ((old, LONG_AGO), (recent, SHORTLY_AGO)):
        for area in ("data", "ended"):
            (objects / area / session_id).parent.mkdir(parents=True, exist_ok=True)
        (objects / "data" / session_id).mkdir()
        (objects / "data" / session_id / "0123").write_bytes(b"a crash's")
        mark = objects / "ended" / session_id
        mark.touch()
        os.utime(mark, (when, when))
    s3.start()
    await bucket.sweep()
    await assert_refused(bucket, recent)
    assert [mark.name for mark in (objects / "ended").iterdir()] == [recent]
    assert [file.parent.name for file in objects.glob("data/*/*")] == [recent]


async def test_a_bucket_without_leftovers_is_swept_without_complaint(
    s3: S3Server, bucket: S3BackEnd
) -> None:
    s3.start()
    path = await store(bucket, session())
    await bucket.sweep()
    assert (await bucket.find(path)).size == 5
