"""Downloading results: the headers, HEAD, ranges, and who may."""

from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Client


@pytest.fixture
def result(rigged: tuple[Client, dict[str, dict[str, Any]]]) -> str:
    client, jobs = rigged
    return client.url + str(jobs["merge"]["output_file"])


def test_a_result_is_an_attachment_of_bytes(result: str) -> None:
    response = httpx.get(result)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/octet-stream"
    disposition = response.headers["content-disposition"]
    assert disposition == 'attachment; filename="character_rigged.fbx"'
    assert response.content.startswith(b"Kaydara FBX Binary")
    assert int(response.headers["content-length"]) == len(response.content)


def test_every_format_is_downloaded_as_plain_bytes(
    rigged: tuple[Client, dict[str, dict[str, Any]]],
) -> None:
    client, jobs = rigged
    artifacts = [artifact for job in jobs.values() for artifact in job["artifacts"]]
    assert {"obj", "fbx", "glb"} <= {artifact["format"] for artifact in artifacts}
    for artifact in artifacts:
        head = httpx.head(client.url + artifact["path"])
        assert head.headers["content-type"] == "application/octet-stream"
        name = artifact["path"].rpartition("/")[2]
        assert head.headers["content-disposition"] == f'attachment; filename="{name}"'


def test_head_tells_the_same_without_the_body(result: str) -> None:
    got, head = httpx.get(result), httpx.head(result)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-length", "content-type", "content-disposition", "etag", "accept-ranges"):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize(
    ("wanted", "part"),
    [("bytes=0-9", slice(0, 10)), ("bytes=10-", slice(10, None)), ("bytes=-5", slice(-5, None))],
)
def test_a_range_gives_that_part(result: str, wanted: str, part: slice) -> None:
    whole = httpx.get(result).content
    response = httpx.get(result, headers={"Range": wanted})
    assert response.status_code == 206
    assert response.content == whole[part]
    start, end, _ = part.indices(len(whole))
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{len(whole)}"


def test_a_range_past_the_end_cannot_be_satisfied(result: str) -> None:
    response = httpx.get(result, headers={"Range": "bytes=999999999-"})
    assert response.status_code == 416
    size = httpx.head(result).headers["content-length"]
    assert response.headers["content-range"] == f"bytes */{size}"
    assert response.json()["error_code"] == "RANGE_NOT_SATISFIABLE"


def test_a_download_can_be_resumed_only_if_the_file_is_the_same(result: str) -> None:
    etag = httpx.head(result).headers["etag"]
    same = httpx.get(result, headers={"Range": "bytes=5-", "If-Range": etag})
    assert same.status_code == 206
    changed = httpx.get(result, headers={"Range": "bytes=5-", "If-Range": '"other"'})
    assert changed.status_code == 200
    unchanged = httpx.get(result, headers={"If-None-Match": etag})
    assert unchanged.status_code == 304


def test_another_sessions_cookie_finds_nothing(result: str, other: Client) -> None:
    response = other.http.get(result)
    assert (response.status_code, response.json()["error_code"]) == (404, "FILE_NOT_FOUND")


@pytest.mark.parametrize(
    "name",
    ["none.fbx", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "a%00b", "x" * 300],
)
def test_what_is_not_there_is_not_found(rigged: tuple[Client, Any], name: str) -> None:
    client, _ = rigged
    response = httpx.get(f"{client.url}/results/{client.session_id}/{name}")
    assert response.status_code == 404
    assert response.json()["error_code"] in ("FILE_NOT_FOUND", "NOT_FOUND")


def test_the_cookies_value_may_stand_for_the_session(
    rigged: tuple[Client, Any], result: str
) -> None:
    client, _ = rigged
    response = client.http.get(result.replace(client.session_id, client.cookie))
    assert response.status_code == 200
