"""multipart/form-data, read as a stream."""

import pytest
import requests

from services.gateway.multipart import MultipartError, MultipartReader, PartBegin, PartData

TYPE = "multipart/form-data; boundary=cut"


def part(disposition: str | bytes, content: bytes) -> bytes:
    raw = disposition if isinstance(disposition, bytes) else disposition.encode()
    return b"--cut\r\nContent-Disposition: " + raw + b"\r\n\r\n" + content + b"\r\n"


def read(body: bytes, size: int = 2**16, content_type: str = TYPE) -> tuple[list[object], bool]:
    """The parts with their whole data, and whether the form ended."""
    reader = MultipartReader(content_type)
    found: list[object] = []
    for start in range(0, len(body), size):
        for event in reader.feed(body[start : start + size]):
            if isinstance(event, PartData) and isinstance(found[-1], bytes):
                found[-1] += event.data
            else:
                found.append(event.data if isinstance(event, PartData) else event)
    return found, reader.ended


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_form_reads_the_same_however_it_is_cut(size: int) -> None:
    content = b"a\r\n--cu\r\n--\r\n\r\n\0\xff--cut"
    body = (
        part('form-data; name="note"', b"hello")
        + part('form-data; name="file"; filename="a.obj"', content)
        + b"--cut--\r\n"
    )
    assert read(body, size) == (
        [PartBegin("note", None), b"hello", PartBegin("file", "a.obj"), content],
        True,
    )


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ('form-data; name="file"; filename="füchsin 🦊.obj"'.encode(), "füchsin 🦊.obj"),
        ('form-data; name="file"; filename="füchsin.obj"'.encode("latin-1"), "füchsin.obj"),
        (b"form-data; name=\"file\"; filename*=utf-8''f%C3%BCchsin.obj", "füchsin.obj"),
        (
            b'form-data; name="file"; filename="x.obj"; filename*=UTF-8\'\'%C3%BC.obj',
            "ü.obj",
        ),
        (rb'form-data; name="file"; filename="a \"b\" \\ c.obj"', 'a "b" \\ c.obj'),
        (b'form-data; name="file"; filename="a;b=c.obj"', "a;b=c.obj"),
        (b'form-data; name="file"; filename="../../etc/passwd.obj"', "../../etc/passwd.obj"),
        (b"form-data; name=file; filename=plain.obj", "plain.obj"),
        (b'form-data; name="file"; filename=""', ""),
        (b'form-data; name="file"', None),
    ],
)
def test_names_are_read_as_clients_send_them(disposition: bytes, filename: str | None) -> None:
    found, _ = read(part(disposition, b"x") + b"--cut--\r\n")
    assert found[0] == PartBegin("file", filename)


def test_what_requests_sends_is_read() -> None:
    prepared = requests.Request(
        "POST", "http://host/", files={"file": ("fü🦊.obj", b"v 0 0 0")}
    ).prepare()
    assert isinstance(prepared.body, bytes)
    found, ended = read(prepared.body, content_type=prepared.headers["Content-Type"])
    assert (found, ended) == ([PartBegin("file", "fü🦊.obj"), b"v 0 0 0"], True)


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "multipart/form-data", "multipart/mixed; boundary=cut", "multipart"],
)
def test_what_is_no_form_is_refused(content_type: str) -> None:
    with pytest.raises(MultipartError):
        MultipartReader(content_type)


def test_a_boundary_that_is_too_long_is_refused() -> None:
    with pytest.raises(MultipartError):
        MultipartReader(f"multipart/form-data; boundary={'x' * 1000}")


@pytest.mark.parametrize(
    "body",
    [
        b"not a form at all",
        b"--cut\r\n\r\nno headers\r\n--cut--\r\n",
        part("attachment; name=file", b"x"),
        part("form-data", b"x"),
        b"--cut\r\nContent-Disposition: form-data; name=" + b"x" * 100_000,
        b"".join(b"--cut\r\nA: b\r\n" for _ in range(3)),
        b"".join(part('form-data; name="a"', b"") for _ in range(200)),
    ],
)
def test_a_malformed_form_is_refused(body: bytes) -> None:
    with pytest.raises(MultipartError):
        read(body)


def test_a_truncated_form_has_not_ended() -> None:
    body = part('form-data; name="file"; filename="a.obj"', b"v 0 0 0") + b"--cut"
    assert read(body)[1] is False
    assert read(body + b"--")[1] is True
