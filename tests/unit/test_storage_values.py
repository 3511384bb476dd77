"""The storage service's pure parts: settings, thresholds, ranges, records."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.common.errors import ApiError, ErrorCode
from services.storage.back_end import byte_range
from services.storage.disk_space import DiskSpace, DiskStatus, Thresholds
from services.storage.records import Lineage, Record, decode_record, encode_record
from services.storage.settings import GIB, StorageSettings


@pytest.mark.parametrize(
    ("free_gib", "status"),
    [
        (10.001, DiskStatus.OK),
        (10, DiskStatus.WARNING),
        (5, DiskStatus.WARNING),
        (4.999, DiskStatus.CRITICAL),
        (0, DiskStatus.CRITICAL),
    ],
)
def test_the_disk_status_changes_where_the_reference_says(
    free_gib: float, status: DiskStatus
) -> None:
    free = int(free_gib * GIB)
    space = DiskSpace(total=100 * GIB, used=100 * GIB - free, free=free)
    assert Thresholds(warning=10 * GIB, critical=5 * GIB).status_of(space) is status


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_a_range_is_what_slicing_gives_or_unsatisfiable(
    size: int, offset: int, length: int
) -> None:
    if offset and offset >= size:
        with pytest.raises(ApiError) as refusal:
            byte_range(size, offset, length)
        assert refusal.value.code is ErrorCode.RANGE_NOT_SATISFIABLE
        return
    content = range(size)
    wanted = content[offset : offset + length] if length else content[offset:]
    assert content[slice(*byte_range(size, offset, length))] == wanted


@given(
    st.builds(
        Record,
        size=st.integers(0, 2**40),
        created_at=st.datetimes(timezones=st.just(UTC)),
        etag=st.text("0123456789abcdef", min_size=64, max_size=64),
        lineage=st.none() | st.builds(Lineage),
    )
)
def test_a_record_reads_back_as_it_was_written(record: Record) -> None:
    # A back end may pad it with spaces.
    assert decode_record(encode_record(record) + b"   ") == record


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b"\x00" * 20, b'{"size": "x"}'])
def test_what_is_no_record_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_record(text)


def test_only_the_same_jobs_result_is_replaced() -> None:
    def of(lineage: Lineage | None) -> Record:
        return Record(1, datetime.now(timezone(timedelta(hours=1))), "", lineage)

    upload = of(None)
    first, later = (of(Lineage("job-1", stage, "", "")) for stage in ("skeleton", "merge"))
    other = of(Lineage("job-2", "skeleton", "", ""))
    assert later.replaces(first)
    assert not other.replaces(first)
    assert not first.replaces(upload)
    assert not upload.replaces(upload)
    assert not upload.replaces(first)


def test_the_default_limits_are_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAX_FILE_BYTES", raising=False)
    settings = StorageSettings()
    assert settings.max_file_bytes == 104857600
    assert (settings.disk_warning_gb, settings.disk_critical_gb) == (10, 5)


@pytest.mark.parametrize(
    "environment",
    [
        {"STORAGE_BACKEND": "s3"},
        {"STORAGE_BACKEND": "tape"},
        {"DISK_WARNING_GB": "4"},
        {"MAX_FILE_BYTES": "0"},
    ],
)
def test_settings_that_cannot_work_are_refused_at_start(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        StorageSettings()
