"""How the gateway words its answers: errors, downloads, events, settings."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from unirig.v1 import jobs_pb2

from services.common.errors import ApiError, ErrorCode
from services.gateway.errors import STATUS, error_response, validation_detail
from services.gateway.openapi import EVENTS
from services.gateway.results import content_disposition, requested_range
from services.gateway.schemas import timestamp
from services.gateway.settings import GatewaySettings
from services.gateway.websocket import event_of, origin_allowed


def test_every_error_code_has_its_status() -> None:
    assert set(STATUS) == set(ErrorCode)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_error_has_the_standard_body(code: ErrorCode) -> None:
    response = error_response(ApiError(code, "Words", {"retry_after": "7"}))
    body = json.loads(bytes(response.body))
    assert body["detail"] == "Words"
    assert body["error_code"] == code
    assert datetime.strptime(body["timestamp"], "%Y-%m-%dT%H:%M:%SZ")
    if response.status_code == 429:
        assert (body["retry_after"], response.headers["retry-after"]) == (7, "7")
    else:
        assert set(body) == {"detail", "error_code", "timestamp"}
    assert ("retry-after" in response.headers) == (response.status_code in (429, 503))


def test_moments_are_whole_seconds_in_utc() -> None:
    cet = timezone(timedelta(hours=1))
    moment = datetime(2025, 11, 13, 11, 30, 0, 999_999, tzinfo=cet)
    assert timestamp(moment) == "2025-11-13T10:30:00Z"
    assert timestamp(moment.astimezone(UTC).replace(tzinfo=None)) == "2025-11-13T10:30:00Z"


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (
            {"type": "missing", "loc": ("body", "input_file"), "msg": "Field required"},
            "input_file: Field required",
        ),
        (
            {"type": "value_error", "loc": ("query", "limit"), "msg": "Value error, too many"},
            "limit: too many",
        ),
        (
            {
                "type": "json_invalid",
                "loc": ("body", 3),
                "msg": "JSON decode error",
                "ctx": {"error": "Expecting value"},
            },
            "The request body is not valid JSON: Expecting value",
        ),
        (
            {"type": "missing", "loc": ("body",), "msg": "Field required"},
            "The request body must be a JSON object sent as application/json",
        ),
    ],
)
def test_a_validation_error_says_what_to_mend(error: dict[str, object], detail: str) -> None:
    assert validation_detail(RequestValidationError([error])) == detail


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("bytes=0-9", (0, 9)),
        ("bytes=10-", (10, 99)),
        ("bytes=-5", (95, 99)),
        ("bytes=-500", (0, 99)),
        ("bytes=0-500", (0, 99)),
        ("bytes=99-99", (99, 99)),
        ("bytes=9-0", None),
        ("bytes=0-1,5-6", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("pages=0-9", None),
        ("bytes=\u0661-9", None),
    ],
)
def test_a_range_is_that_part_of_the_file(header: str, wanted: tuple[int, int] | None) -> None:
    assert requested_range(header, 100) == wanted


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside_the_file_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(ApiError) as refusal:
        requested_range(header, 100)
    assert refusal.value.code is ErrorCode.RANGE_NOT_SATISFIABLE


@given(st.text(max_size=30), st.integers(0, 2**40))
def test_any_range_is_within_the_file_or_refused(header: str, size: int) -> None:
    try:
        wanted = requested_range(f"bytes={header}", size)
    except ApiError:
        return
    assert wanted is None or 0 <= wanted[0] <= wanted[1] < size


@pytest.mark.parametrize(
    ("filename", "header"),
    [
        ("model_rigged.fbx", 'attachment; filename="model_rigged.fbx"'),
        ("a b;c.obj", 'attachment; filename="a b;c.obj"'),
        (
            "fü🦊.obj",
            "attachment; filename=\"f__.obj\"; filename*=UTF-8''f%C3%BC%F0%9F%A6%8A.obj",
        ),
    ],
)
def test_a_download_keeps_its_name(filename: str, header: str) -> None:
    assert content_disposition(filename) == header


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://localhost:8080", "localhost:8080", True),
        ("http://localhost", "localhost", True),
        ("http://localhost", "localhost:80", True),
        ("https://rig.example", "rig.example", True),
        ("https://RIG.example:443", "rig.EXAMPLE", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("https://app.example", "rig.example", True),
        ("https://evil.example", "rig.example", False),
        ("https://rig.example.evil.example", "rig.example", False),
        ("https://rig.example@evil.example", "rig.example", False),
        ("http://localhost:8081", "localhost:8080", False),
        ("null", "rig.example", False),
        ("file://", "rig.example", False),
        ("", "", False),
        ("https://", "", False),
        ("http://a:notaport", "a", False),
    ],
)
def test_only_pages_of_this_host_or_of_the_list_may_connect(
    origin: str, host: str, allowed: bool
) -> None:
    assert origin_allowed(origin, host, ("https://app.example",)) is allowed


def job(status: "jobs_pb2.JobStatus.ValueType", **fields: object) -> jobs_pb2.Job:
    made = jobs_pb2.Job(job_id="job-uuid-1234", status=status, **fields)  # type: ignore[arg-type]
    made.spec.type = jobs_pb2.JOB_TYPE_SKELETON
    return made


def test_events_are_those_of_the_reference() -> None:
    running = job(jobs_pb2.JOB_STATUS_RUNNING, progress=45, message="Processing skeleton...")
    path = "/results/session123/model_skeleton.obj"
    completed = job(jobs_pb2.JOB_STATUS_COMPLETED, progress=100, output_file=path)
    failed = job(
        jobs_pb2.JOB_STATUS_FAILED, error="GPU out of memory", error_code="GPU_OUT_OF_MEMORY"
    )
    cancelled = job(jobs_pb2.JOB_STATUS_CANCELLED)
    for event, name in (
        (event_of(running), "job_progress"),
        (event_of(completed), "job_completed"),
        (event_of(failed), "job_failed"),
        (event_of(cancelled), "job_cancelled"),
    ):
        assert event == EVENTS[name]


def test_a_job_that_says_nothing_yet_has_a_message_too() -> None:
    assert event_of(job(jobs_pb2.JOB_STATUS_PENDING))["message"] == "Processing skeleton..."


def test_lists_in_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", "10.0.0.0/8, 192.168.1.7,fd00::/8")
    monkeypatch.setenv("CORS_ORIGINS", "https://App.example/, http://localhost:3000")
    settings = GatewaySettings()
    assert settings.trusted_proxies == ("10.0.0.0/8", "192.168.1.7/32", "fd00::/8")
    assert settings.cors_origins == ("https://app.example", "http://localhost:3000")
    assert settings.allowed_origins == ()


def test_a_proxy_that_is_no_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", "my-proxy")
    with pytest.raises(ValueError, match="my-proxy"):
        GatewaySettings()
