"""Uploads: the answer, the formats, the limit, the names."""

import json
import re
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from services.cli.stack import Stack
from tests.e2e.conftest import Client

LIMIT = 100 * 1024 * 1024


def glb(document: dict, version: int = 2) -> bytes:
    """A GLB with a JSON chunk only."""
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunk = struct.pack("<I4s", len(text), b"JSON") + text
    return struct.pack("<4sII", b"glTF", version, 12 + len(chunk)) + chunk


def test_the_answer_describes_the_file(client: Client, tetrahedron: bytes) -> None:
    response = client.upload(tetrahedron, "model.obj")
    assert response.status_code == 200
    body = response.json()
    assert body["filename"] == "model.obj"
    assert body["path"] == f"/uploads/{client.session_id}/model.obj"
    assert body["size"] == len(tetrahedron)
    assert body["mime_type"] == "model/obj"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["uploaded_at"])


def test_all_four_formats_are_taken(client: Client, tetrahedron: bytes) -> None:
    asset = {"asset": {"version": "2.0"}}
    vrm = {**asset, "extensionsUsed": ["VRMC_vrm"], "extensions": {"VRMC_vrm": {}}}
    for name, content in {
        "a.obj": tetrahedron,
        "a.fbx": b"Kaydara FBX Binary  \x00\x1a\x00" + struct.pack("<I", 7400) + bytes(200),
        "a.glb": glb(asset),
        "a.vrm": glb(vrm),
        "UPPER.OBJ": tetrahedron,
    }.items():
        assert client.upload(content, name).status_code == 200, name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.stl", b"solid x"),
        ("model.gltf", b"{}"),
        ("model", b"v 0 0 0\nf 1 1 1\n"),
        ("model.obj.exe", b"v 0 0 0\nf 1 1 1\n"),
        ("model.glb", b"v 0 0 0\nf 1 1 1\n"),
        ("model.glb", b""),
        ("model.glb", glb({"asset": {"version": "2.0"}})[:-8]),
        ("model.glb", glb({"asset": {"version": "2.0"}}, version=1)),
        ("model.vrm", glb({"asset": {"version": "2.0"}})),
        ("model.fbx", b"PK\x03\x04 a zip"),
        ("model.fbx", b""),
        ("model.obj", b""),
        ("model.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"),
        ("model.obj", b"f 1 2 3\n"),
        ("model.obj", bytes(range(256)) * 40),
    ],
)
def test_a_wrong_format_is_refused_and_nothing_is_kept(
    client: Client, name: str, content: bytes
) -> None:
    response = client.upload(content, name)
    assert response.status_code == 400
    assert response.json()["error_code"] == "INVALID_FILE_FORMAT"
    assert response.json()["detail"].startswith("Invalid file format")
    usage = client.http.get(f"/api/sessions/{client.session_id}/stats").json()
    assert usage["total_uploads"] == 0


def test_a_wrong_extension_has_the_references_text(client: Client) -> None:
    response = client.upload(b"solid x", "model.stl")
    assert response.json()["detail"] == "Invalid file format. Supported: .obj, .fbx, .glb, .vrm"


def test_exactly_100_mb_are_taken_and_a_byte_more_is_not(client: Client, tmp_path: Path) -> None:
    head = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    whole = tmp_path / "whole.obj"
    with whole.open("wb") as file:
        file.write(head + b"#" * (LIMIT - len(head)))
    with whole.open("rb") as file:
        response = client.post("/api/upload", files={"file": ("whole.obj", file)})
    assert response.status_code == 200
    assert response.json()["size"] == LIMIT
    with whole.open("ab") as file:
        file.write(b"#")
    with whole.open("rb") as file:
        response = client.post("/api/upload", files={"file": ("more.obj", file)})
    assert response.status_code == 413
    body = response.json()
    assert body["detail"] == "File size exceeds maximum allowed size of 100MB"
    assert body["error_code"] == "FILE_TOO_LARGE"
    usage = client.http.get(f"/api/sessions/{client.session_id}/stats").json()
    assert usage["total_uploads"] == 1


def test_the_413_comes_before_the_end_of_an_endless_body(client: Client) -> None:
    """A chunked body has no length to refuse by: the answer must come while it is being sent."""
    address = urlsplit(client.url)
    assert address.hostname
    assert address.port
    boundary = b"frontier"
    head = (
        f"POST /api/upload HTTP/1.1\r\nHost: x\r\nX-CSRF-Token: {client.token}\r\n"
        f"Cookie: session_id={client.cookie}\r\nTransfer-Encoding: chunked\r\n"
        "Content-Type: multipart/form-data; boundary=frontier\r\n\r\n"
    ).encode()
    part = b"--" + boundary + b'\r\nContent-Disposition: form-data; name="file"; filename="a.obj"'
    first = part + b"\r\n\r\nv 0 0 0\nf 1 1 1\n"
    chunk = b"#" * (1 << 20)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(head + b"%x\r\n%s\r\n" % (len(first), first))
        answered = b""
        for _ in range(110):
            connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            if select.select([connection], [], [], 0)[0]:
                break
        while b"FILE_TOO_LARGE" not in answered and (piece := connection.recv(65536)):
            answered += piece
    assert answered.startswith(b"HTTP/1.1 413")
    assert b"FILE_TOO_LARGE" in answered


def test_the_same_name_never_overwrites(client: Client, tetrahedron: bytes) -> None:
    names = [client.upload(tetrahedron, "model.obj").json()["filename"] for _ in range(3)]
    assert names == ["model.obj", "model-2.obj", "model-3.obj"]


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd.obj",
        "..\\..\\windows\\x.obj",
        "quo\"te's.obj",
        "$(id).obj",
        "`id`;rm -rf.obj",
        "new\nline.obj",
        "n" * 300 + ".obj",
        "🦊 Füchsin.obj",
        "...obj",
        "%2e%2e%2fx.obj",
    ],
)
def test_strange_names_become_one_safe_component_that_works_to_the_end(
    client: Client, tetrahedron: bytes, name: str
) -> None:
    response = client.upload(tetrahedron, name)
    if name == "...obj":
        assert response.status_code in (200, 400)
        if response.status_code == 400:
            return
    assert response.status_code == 200, response.text
    body = response.json()
    assert "/" not in body["filename"]
    assert len(body["filename"].encode()) <= 255
    assert body["filename"].endswith(".obj")
    assert not re.search(r"[\x00-\x1f\\]", body["filename"])
    job = client.finished("skeleton", input_file=body["path"])
    assert job["status"] in ("completed", "failed")
    assert job["error_code"] in (None, "INVALID_MESH")
    if job["output_file"]:
        assert httpx.get(client.url + job["output_file"]).status_code == 200


def test_a_body_without_a_file_is_refused(client: Client, tetrahedron: bytes) -> None:
    for content in (
        {"files": {"other": ("model.obj", tetrahedron)}},
        {"files": [("file", ("a.obj", tetrahedron)), ("file", ("b.obj", tetrahedron))]},
        {"data": {"file": "just text"}},
        {"json": {"file": "model.obj"}},
        {"content": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data"}},
    ):
        headers = {**client.headers, **content.pop("headers", {})}
        response = client.http.post("/api/upload", headers=headers, **content)
        assert response.status_code == 400, response.text
        assert response.json()["error_code"] == "INVALID_REQUEST"
    usage = client.http.get(f"/api/sessions/{client.session_id}/stats").json()
    assert usage["total_uploads"] == 0


def test_a_200_mb_text_field_is_refused_without_being_kept(stack: Stack, client: Client) -> None:
    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\n'
        for _ in range(200):
            yield b"x" * (1 << 20)
        yield b"\r\n--b--\r\n"

    headers = {**client.headers, "Content-Type": "multipart/form-data; boundary=b"}
    try:
        response = client.http.post("/api/upload", headers=headers, content=body())
    except httpx.WriteError:
        # Refused while we were still sending.
        return
    assert response.status_code in (400, 413)
    assert client.http.get("/api/health").status_code == 200


def test_an_upload_that_breaks_off_leaves_nothing(client: Client) -> None:
    address = urlsplit(client.url)
    assert address.hostname
    assert address.port
    head = (
        f"POST /api/upload HTTP/1.1\r\nHost: x\r\nX-CSRF-Token: {client.token}\r\n"
        f"Cookie: session_id={client.cookie}\r\nContent-Length: 5000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.obj"\r\n\r\n'
    ).encode()
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head + b"v 0 0 0\nf 1 1 1\n" + b"#" * 1_000_000)
    usage = client.http.get(f"/api/sessions/{client.session_id}/stats").json()
    assert usage["total_uploads"] == 0
