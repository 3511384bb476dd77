"""What strangers send: broken models, strange names, foreign paths, odd HTTP and WebSocket frames.

Each is answered with the right error in the standard body. Behind each, all services answer, no log
has a traceback, and nothing stays in storage's drafts or in the workers' scratch folder.
"""

import base64
import json
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from services.cli.stack import SERVICES, Stack
from tests.e2e.conftest import TETRAHEDRON, Client
from tests.sample_models import ascii_fbx, write_figure

INSIDES = re.compile(
    r"Traceback|Error\(|/(?:tmp|usr|etc|root|home|proc)\b|\.py\b|input-\d|0x[0-9a-f]{6}"
)


@pytest.fixture(autouse=True)
def unharmed(stack: Stack) -> Iterator[None]:
    """The services are as they were before: alive, silent and tidy."""
    logs = {name: stack.log_of(name) for name in SERVICES}
    before = {name: log.stat().st_size for name, log in logs.items()}
    yield
    assert httpx.get(f"{stack.url}/api/health").status_code == 200
    assert not stack.ended_services()
    for name, log in logs.items():
        for line in log.read_bytes()[before[name] :].splitlines():
            # What a confined step said before it failed is there for the operator.
            assert "Traceback" not in str({**json.loads(line), "stderr": ""}), name
    deadline = time.monotonic() + 10
    while (left := leftovers(stack)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def data_of(stack: Stack) -> Path:
    return stack.log_of("gateway").parents[1]


def leftovers(stack: Stack) -> list[Path]:
    """What only a request or a job at work may have on disk."""
    data = data_of(stack)
    return [*data.glob("storage/incoming/*"), *data.glob("scratch/worker-*/job-*")]


def files_of(stack: Stack, client: Client, area: str) -> list[Path]:
    return list((data_of(stack) / "storage" / area / client.session_id).glob("*"))


def assert_refused(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    body = response.json()
    assert body["error_code"] == code
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["timestamp"])
    assert body["detail"]
    assert not INSIDES.search(body["detail"]), body["detail"]


# Models that pass as files and fail as jobs


def container(description: bytes, binary: bytes = b"") -> bytes:
    """A GLB of a JSON chunk as it is, and a binary one."""
    description += b" " * (-len(description) % 4)
    chunks = struct.pack("<I4s", len(description), b"JSON") + description
    if binary:
        chunks += struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


@pytest.fixture(scope="session")
def figure(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sound GLB: two nodes that show a textured mesh, a camera, a morph."""
    return write_figure(tmp_path_factory.mktemp("figure") / "figure.glb").read_bytes()


def changed(figure: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The figure with another description over the same binary."""
    (length,) = struct.unpack_from("<I", figure, 12)
    description = json.loads(figure[20 : 20 + length])
    change(description)
    return container(json.dumps(description).encode(), figure[28 + length :])


def value(path: str, new: object) -> Callable[[bytes], bytes]:
    """The figure with another value at the path of its description."""

    def change(description: Any) -> None:
        *keys, last = [int(key) if key.isdecimal() else key for key in path.split()]
        for key in keys:
            description = description[key]
        description[last] = new

    return lambda figure: changed(figure, change)


def cut(figure: bytes) -> bytes:
    """Cut off inside the binary chunk, and the header says that this is all."""
    short = figure[: len(figure) * 9 // 10]
    return short[:8] + struct.pack("<I", len(short)) + short[12:]


def cut_in_description(figure: bytes) -> bytes:
    """Cut off inside the JSON chunk; both lengths say that this is all."""
    (length,) = struct.unpack_from("<I", figure, 12)
    short = figure[: 20 + length // 2]
    return short[:8] + struct.pack("<II", len(short), len(short) - 20) + short[16:]


def doubling(figure: bytes) -> bytes:
    """Forty nodes that each show the next one twice: a trillion meshes."""

    def change(description: dict[str, Any]) -> None:
        nodes = [{"children": [index + 1] * 2} for index in range(40)]
        description["nodes"] = [*nodes, {"mesh": 0}]
        description["scenes"] = [{"nodes": [0]}]

    return changed(figure, change)


def instances(figure: bytes) -> bytes:
    def change(description: dict[str, Any]) -> None:
        description["nodes"] = [{"mesh": 0}] * 200_000
        description["scenes"] = [{"nodes": list(range(200_000))}]

    return changed(figure, change)


def primitives(figure: bytes) -> bytes:
    def change(description: dict[str, Any]) -> None:
        description["meshes"][0]["primitives"] *= 50_000

    return changed(figure, change)


def nested(figure: bytes) -> bytes:
    def change(description: dict[str, Any]) -> None:
        description["nodes"] = [{"children": [index + 1]} for index in range(20_000)]
        description["nodes"].append({"mesh": 0})
        description["scenes"] = [{"nodes": [0]}]

    return changed(figure, change)


DAMAGED_GLB: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off, and the header agrees": (cut, "truncated"),
    "cut off in the JSON, and the header agrees": (cut_in_description, "JSON"),
    "accessor behind its view": (value("accessors 0 byteOffset", 10**9), "outside"),
    "accessor before its view": (value("accessors 0 byteOffset", -4), "outside"),
    "accessor beyond all numbers": (value("accessors 0 byteOffset", 10**30), "outside"),
    "accessor offset is a word": (value("accessors 0 byteOffset", "x"), "damaged"),
    "accessor of 2^31 elements": (value("accessors 4 count", 2**31), "triangles"),
    "accessor of minus elements": (value("accessors 4 count", -(10**12)), "damaged"),
    "accessor of no known type": (value("accessors 0 componentType", 1), "damaged"),
    "accessor that strides backwards": (value("bufferViews 0 byteStride", -12), "outside"),
    "view behind its buffer": (value("bufferViews 0 byteOffset", 10**9), "outside"),
    "buffer longer than the file": (value("buffers 0 byteLength", 10**9), "shorter"),
    "buffer in /etc/passwd": (value("buffers 0 uri", "file:///etc/passwd"), "other files"),
    "buffer in another folder": (value("buffers 0 uri", "../../../etc/passwd"), "other files"),
    "buffer on the network": (value("buffers 0 uri", "http://127.0.0.1:1/x"), "other files"),
    "index of a missing material": (value("meshes 0 primitives 0 material", 9), "hold"),
    "index of a missing texture": (value("textures 0 source", 9), "hold"),
    "nodes in a circle": (value("nodes 3 children", [0]), "tree"),
    "nodes that are a number": (value("nodes", 7), "damaged"),
    "a scale of nothing": (value("nodes 0 scale", [0, 0, 0]), "no size"),
    "a place that is no number": (value("nodes 0 translation", [float("nan")] * 3), "not finite"),
    "a name that is half a character": (value("nodes 1 name", "\ud800"), "JSON"),
    "JSON that is none": (lambda _: container(b"{{{{"), "JSON"),
    "JSON that is a list": (lambda _: container(b"[]"), "JSON"),
    "JSON that is not UTF-8": (lambda _: container(b'{"a":"\xff\xfe"}'), "JSON"),
    "JSON with a number of 100,000 digits": (
        lambda _: container(b'{"a":' + b"9" * 100_000 + b"}"),
        "JSON",
    ),
    "JSON 200,000 levels deep": (lambda _: container(b'{"a":' + b"[" * 200_000), "JSON"),
    "a trillion meshes by doubling": (doubling, "tree"),
    "200,000 instances": (instances, "parts"),
    "100,000 primitives": (primitives, "parts"),
    "nodes 20,000 levels deep": (nested, "nested"),
    "100 million vertices out of nothing": (
        value("accessors 0", {"componentType": 5126, "type": "VEC3", "count": 99_000_000}),
        "differ",
    ),
}
_POINTS = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
DAMAGED_OBJ = {
    "a vertex that is no number": (TETRAHEDRON.replace(b"v 1", b"v nan"), "not finite"),
    "an infinite vertex": (TETRAHEDRON.replace(b"v 1", b"v inf"), "not finite"),
    "a vertex beyond all numbers": (TETRAHEDRON.replace(b"v 1", b"v 1e400"), "not finite"),
    "a vertex that is a word": (TETRAHEDRON.replace(b"v 1", b"v x"), "not three numbers"),
    "a face past the last vertex": (_POINTS + b"f 1 2 3\nf 1 2 99\n", "does not have"),
    "a face with vertex 0": (_POINTS + b"f 0 1 2\n", "does not have"),
    "a face before the first vertex": (_POINTS + b"f -1 -2 -99\n", "does not have"),
    "a face past all numbers": (_POINTS + b"f 1 2 99999999999999999999999\n", "does not have"),
    "a face of fractions": (_POINTS + b"f 1.5 2 3\n", "numbers"),
    "a face of two corners": (_POINTS + b"f 1 2\n", "no faces"),
    "faces without an area": (_POINTS + b"f 1 1 1\nf 2 2 3\n", "no faces"),
    "three vertices": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "fewer than four"),
    "four vertices at one place": (b"v 1 1 1\n" * 4 + b"f 1 2 3\nf 2 3 4\n", "no size"),
    "a model smaller than dust": (_POINTS.replace(b"1", b"1e-9") + b"f 1 2 3\n", "too small"),
}
_FBX_HEAD = b"Kaydara FBX Binary  \x00\x1a\x00" + struct.pack("<I", 7400)
DAMAGED_FBX: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "half of it": (lambda fbx: fbx[: len(fbx) // 2], "truncated"),
    "all but its end": (lambda fbx: fbx[:-300], "truncated"),
    "its head": (lambda fbx: fbx[:27], "truncated"),
    "noise inside": (lambda fbx: fbx[:5000] + os.urandom(5000) + fbx[10_000:], "FBX|read|model"),
    "zeros": (lambda _: _FBX_HEAD + bytes(100_000), "no faces"),
    "records that end before they begin": (
        lambda _: _FBX_HEAD + struct.pack("<IIIB", 5, 0, 0, 0) * 100,
        "damaged",
    ),
    "text that is none": (
        lambda _: b"; FBX 7.3.0 project file\nFBXHeaderExtension: {\n" + b"{" * 100_000,
        "could not be read",
    ),
    "text without objects": (
        lambda _: b"; FBX 7.3.0 project file\nFBXHeaderExtension: {\n}\nObjects: {\n}\n",
        "no faces",
    ),
}


def assert_fails(stack: Stack, client: Client, content: bytes, name: str, reason: str) -> None:
    """The upload passes, the job does not, and says why; no file comes of it."""
    job = client.finished("skeleton", input_file=client.uploaded(content, name))
    assert (job["status"], job["error_code"]) == ("failed", "INVALID_MESH"), job
    assert re.search(reason, job["error"]), job["error"]
    assert not INSIDES.search(job["error"]), job["error"]
    assert (job["output_file"], job["artifacts"]) == (None, [])
    assert not files_of(stack, client, "results")


@pytest.mark.parametrize("damage", DAMAGED_GLB)
def test_a_damaged_glb_fails_with_a_reason(
    stack: Stack, client: Client, figure: bytes, damage: str
) -> None:
    change, reason = DAMAGED_GLB[damage]
    assert_fails(stack, client, change(figure), "model.glb", reason)


@pytest.mark.parametrize("damage", DAMAGED_OBJ)
def test_a_damaged_obj_fails_with_a_reason(stack: Stack, client: Client, damage: str) -> None:
    assert_fails(stack, client, DAMAGED_OBJ[damage][0], "model.obj", DAMAGED_OBJ[damage][1])


@pytest.mark.parametrize("damage", DAMAGED_FBX)
def test_a_damaged_fbx_fails_with_a_reason(
    stack: Stack, client: Client, rigged: tuple[Client, dict[str, Any]], damage: str
) -> None:
    change, reason = DAMAGED_FBX[damage]
    fbx = rigged[0].http.get(rigged[1]["merge"]["output_file"]).content
    assert_fails(stack, client, change(fbx), "model.fbx", reason)


@pytest.mark.parametrize(
    "extension", [None, 5, {"humanoid": "x"}, {"humanoid": {"humanBones": [5]}}]
)
def test_a_damaged_vrm_fails_with_a_reason(
    stack: Stack, client: Client, figure: bytes, extension: object
) -> None:
    vrm = value("extensions", {"VRMC_vrm": extension})(figure)
    assert_fails(stack, client, vrm, "model.vrm", "damaged")


def test_a_model_that_fails_as_skinning_and_merge_says_why_too(
    stack: Stack, client: Client, figure: bytes
) -> None:
    whole = client.uploaded(figure, "whole.glb")
    broken = client.uploaded(cut(figure), "cut.glb")
    for job in (
        client.finished("skinning", input_file=broken),
        client.finished("merge", skeleton_file=broken, skinning_file=whole),
        client.finished("merge", skeleton_file=whole, skinning_file=broken),
        client.finished("merge", skeleton_file=whole, skinning_file=whole, target_file=broken),
    ):
        assert (job["status"], job["error_code"]) == ("failed", "INVALID_MESH"), job
        assert not INSIDES.search(job["error"]), job["error"]
    assert not files_of(stack, client, "results")


@pytest.mark.parametrize("name", ["model.glb", "model.vrm"])
def test_a_header_that_promises_more_than_comes_is_refused_at_once(
    stack: Stack, client: Client, figure: bytes, name: str
) -> None:
    content = figure.replace(b'"asset"', b'"VRMC_vrm":0,"asset"')[:-100]
    assert_refused(client.upload(content, name), 400, "INVALID_FILE_FORMAT")
    assert not files_of(stack, client, "uploads")


# Models that want to read more than themselves


class Listener:
    """A port that remembers whether anybody called."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(0.1)
        self.port = self.socket.getsockname()[1]

    def was_called(self) -> bool:
        try:
            self.socket.accept()[0].close()
        except TimeoutError:
            return False
        return True


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A picture on the host that is nobody's business: its bytes are nowhere else."""
    header = base64.b64decode("iVBORw0KGgo=")
    path = tmp_path / "secret.png"
    path.write_bytes(header + os.urandom(4000))
    return path


def assert_nothing_leaked(client: Client, job: dict[str, Any], secret: Path) -> None:
    """The job's files hold neither the secret nor its name nor a known file of the host."""
    assert job["status"] == "completed", job
    needles = [secret.read_bytes()[100:140], secret.name.encode(), b"root:x:0", b"passwd"]
    for artifact in job["artifacts"]:
        content = client.http.get(artifact["path"]).content
        for needle in needles:
            assert needle not in content, (artifact["path"], needle)


def test_pictures_that_a_glb_finds_elsewhere_stay_out(
    client: Client, figure: bytes, secret: Path
) -> None:
    listener = Listener()
    addresses = [
        "file:///etc/passwd",
        str(secret),
        f"file://{secret}",
        "../../../../../../etc/passwd",
        f"http://127.0.0.1:{listener.port}/x.png",
    ]

    def change(description: dict[str, Any]) -> None:
        description["images"] = [{"uri": address} for address in addresses]
        description["textures"] = [{"source": index} for index in range(len(addresses))]

    path = client.uploaded(changed(figure, change), "model.glb")
    job = client.finished("skeleton", input_file=path)
    assert_nothing_leaked(client, job, secret)
    assert not listener.was_called()
    assert "Images that are not inside the file were left out." in job["notes"]


@pytest.mark.parametrize("where", ["absolute", "file", "relative"])
def test_pictures_that_an_fbx_finds_elsewhere_stay_out(
    client: Client, secret: Path, where: str
) -> None:
    picture = {
        "absolute": str(secret),
        "file": f"file://{secret}",
        "relative": f"../../../../../../../..{secret}",
    }[where]
    path = client.uploaded(ascii_fbx(picture).encode(), "model.fbx")
    assert_nothing_leaked(client, client.finished("skeleton", input_file=path), secret)


def test_materials_that_an_obj_finds_elsewhere_stay_out(client: Client, secret: Path) -> None:
    lines = f"mtllib /etc/passwd\nmtllib {secret}\nusemtl root\ncall /etc/passwd\ncsh id\n"
    path = client.uploaded(lines.encode() + TETRAHEDRON, "model.obj")
    job = client.finished("skeleton", input_file=path)
    assert job["status"] == "completed", job
    for artifact in job["artifacts"]:
        if artifact["format"] != "obj":  # which keeps the user's own lines
            content = client.http.get(artifact["path"]).content
            assert secret.read_bytes()[100:140] not in content
            assert b"root:x:0" not in content


# Names


@pytest.mark.parametrize(
    "name",
    [
        "../../$(id);`id` \"q\" 'q'\n\r\t🦊%2e%2e%2fe\u0301 \u202egpj.obj",
        "n" * 300 + "🦊" * 20 + ".obj",
        "-rf --output=x\\..\\con.obj",
    ],
)
def test_strange_names_go_through_the_whole_job(stack: Stack, client: Client, name: str) -> None:
    skeleton = client.finished("skeleton", input_file=client.uploaded(TETRAHEDRON, name))
    assert skeleton["status"] == "completed", skeleton
    skinning = client.finished("skinning", input_file=skeleton["output_file"])
    assert skinning["status"] == "completed", skinning
    made = {"skeleton_file": skeleton["output_file"], "skinning_file": skinning["output_file"]}
    merge = client.finished("merge", **made)
    assert merge["status"] == "completed", merge
    artifacts = [artifact for job in (skeleton, skinning, merge) for artifact in job["artifacts"]]
    names = {artifact["path"].rpartition("/")[2] for artifact in artifacts}
    assert len(names) == len(artifacts)
    for artifact in artifacts:
        filename = artifact["path"].rpartition("/")[2]
        assert not re.search(r'[\x00-\x1f\\"%:*?<>|\u202e]', filename)
        assert len(filename.encode()) <= 255
        assert not filename.startswith(".")
        response = client.http.get(artifact["path"])
        assert (response.status_code, len(response.content)) == (200, artifact["size"])
        assert response.headers["content-disposition"].startswith("attachment; filename=")
    stored = {file.name for file in files_of(stack, client, "results")}
    assert stored == names


# Forms


def part(disposition: str, content: bytes = TETRAHEDRON, more: str = "") -> bytes:
    return f"--b\r\nContent-Disposition: {disposition}\r\n{more}\r\n".encode() + content + b"\r\n"


FILE = 'form-data; name="file"; filename="model.obj"'
ODD_FORMS = {
    "an empty body": b"",
    "only an end": b"--b--\r\n",
    "only a beginning": b"--b",
    "no end": part(FILE),
    "another boundary": part(FILE).replace(b"--b", b"--c") + b"--c--\r\n",
    "text before the first boundary only": b"hello\r\n" * 1000,
    "line feeds alone": part(FILE).replace(b"\r\n", b"\n") + b"--b--\n",
    "a part without a disposition": b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n",
    "a part that is an attachment": part('attachment; filename="model.obj"') + b"--b--\r\n",
    "a part without a name": part('form-data; filename="model.obj"') + b"--b--\r\n",
    "a file of another name": part('form-data; name="files[]"; filename="a.obj"') + b"--b--\r\n",
    "a header of 100 KB": part(FILE, more="X-A: " + "a" * 100_000 + "\r\n") + b"--b--\r\n",
    "1,000 headers": part(FILE, more="X-A: a\r\n" * 10_000) + b"--b--\r\n",
    "101 parts": part('form-data; name="x"', b"") * 101 + b"--b--\r\n",
    "a second file behind the first": part(FILE) + part(FILE) + b"--b--\r\n",
    "a header with a NUL": part(FILE, more="X\0A: a\r\n") + b"--b--\r\n",
}


@pytest.mark.parametrize("form", ODD_FORMS)
def test_an_odd_form_is_an_invalid_request(stack: Stack, client: Client, form: str) -> None:
    headers = {**client.headers, "Content-Type": "multipart/form-data; boundary=b"}
    response = client.http.post("/api/upload", headers=headers, content=ODD_FORMS[form])
    assert_refused(response, 400, "INVALID_REQUEST")
    assert not files_of(stack, client, "uploads")


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=b",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="',
        "multipart/form-data; boundary=" + "b" * 5000,
        "multipart/form-data; boundary=ü",
    ],
)
def test_a_form_of_another_type_is_an_invalid_request(
    stack: Stack, client: Client, content_type: str
) -> None:
    headers = {**client.headers, "Content-Type": content_type.encode()}
    response = client.http.post("/api/upload", headers=headers, content=part(FILE) + b"--b--\r\n")
    assert_refused(response, 400, "INVALID_REQUEST")
    assert not files_of(stack, client, "uploads")


def test_a_form_says_its_session_nowhere_but_in_the_cookie(
    stack: Stack, client: Client, other: Client
) -> None:
    other.uploaded(TETRAHEDRON, "theirs.obj")
    fields = {"session_id": other.session_id, "path": f"/uploads/{other.session_id}/x.obj"}
    name = f"../{other.session_id}/theirs.obj"
    response = client.post("/api/upload", data=fields, files={"file": (name, TETRAHEDRON)})
    assert response.json()["path"] == f"/uploads/{client.session_id}/theirs.obj"
    assert len(files_of(stack, other, "uploads")) == 1


# Other sessions, and paths that try to get out of one's own


def foreign_paths(own: str, other: str) -> list[str]:
    tricks = [
        f"/uploads/{other}/theirs.obj",
        f"/results/{other}/theirs_skeleton.obj",
        f"/uploads/{own}/../{other}/theirs.obj",
        f"/uploads/{own}/%2e%2e/{other}/theirs.obj",
        f"/uploads/{own}/..%2f{other}%2ftheirs.obj",
        f"/uploads/{own}/..\\{other}\\theirs.obj",
        f"/uploads/{own}//../{other}/theirs.obj",
        f"/uploads/{own}.x/../{other}/theirs.obj",
        f"/uploads/{own}\0/../../{other}/theirs.obj",
    ]
    missing = [
        "",
        "/",
        "mine.obj",
        f"uploads/{own}/mine.obj",
        f"//uploads/{own}/mine.obj",
        f"/uploads//{own}/mine.obj",
        f"/uploads/{own}/./mine.obj",
        f"/uploads/{own}/mine.obj/",
        f"/uploads/{own}/mine.obj\0",
        f"/uploads/{own}/mine.obj\n",
        f" /uploads/{own}/mine.obj",
        f"/uploads/{own}/MINE.obj",
        f"/uploads/{own}/ｍine.obj",
        f"/uploads/{own}/mine.obj?x",
        f"/uploads/{own}/\ud800.obj",
        f"/uploads/{own.upper()}/mine.obj",
        f"/results/{own}/mine.obj",
        f"/incoming/{own}/mine.obj",
        f"/uploads/{own}/" + "a" * 50_000 + ".obj",
        f"/uploads/{own}/" + "a/" * 5000,
        "/etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1/mine.obj",
        "$(id)",
        "*",
    ]
    return tricks + missing


def test_no_path_leads_to_what_is_not_the_sessions_own(client: Client, other: Client) -> None:
    theirs = other.uploaded(TETRAHEDRON, "theirs.obj")
    mine = client.uploaded(TETRAHEDRON, "mine.obj")
    other_job = other.finished("skeleton", input_file=theirs)
    for path in foreign_paths(client.session_id, other.session_id):
        for kind, request in (
            ("skeleton", {"input_file": path}),
            ("skinning", {"input_file": path}),
            ("merge", {"skeleton_file": path, "skinning_file": mine}),
            ("merge", {"skeleton_file": mine, "skinning_file": path}),
            ("merge", {"skeleton_file": mine, "skinning_file": mine, "target_file": path}),
        ):
            content = json.dumps(request).encode()
            headers = {**client.headers, "Content-Type": "application/json"}
            response = client.http.post(f"/api/jobs/{kind}", headers=headers, content=content)
            assert_refused(response, 404, "FILE_NOT_FOUND")
    assert client.http.get("/api/jobs").json()["total"] == 0
    assert other.http.get(f"/api/jobs/{other_job['job_id']}").json() == other_job


def test_no_address_leads_to_what_is_not_the_sessions_own(client: Client, other: Client) -> None:
    own, theirs = client.session_id, other.session_id
    job = other.finished("skeleton", input_file=other.uploaded(TETRAHEDRON, "theirs.obj"))
    result = job["output_file"].rpartition("/")[2]
    for target, status, code in (
        (f"/results/{theirs}/{result}", 404, "FILE_NOT_FOUND"),
        (f"/results/{own}/../{theirs}/{result}", 404, "FILE_NOT_FOUND"),
        (f"/results/{own}/..%2f{theirs}%2f{result}", 404, "FILE_NOT_FOUND"),
        (f"/results/{own}/%2e%2e/{theirs}/{result}", 404, "FILE_NOT_FOUND"),
        (f"/results/{own}/..%5c{theirs}%5c{result}", 404, "FILE_NOT_FOUND"),
        (f"/results/{own}%00/{result}", 404, "FILE_NOT_FOUND"),
        (f"/results/{own}/%0d%0aSet-Cookie:%20x=1", 404, "NOT_FOUND"),
        (f"/results/{own}/%ff%fe", 404, "FILE_NOT_FOUND"),
        (f"/results/{own}/" + "%F0%9F%A6%8A" * 3000, 404, "FILE_NOT_FOUND"),
        (f"/uploads/{theirs}/theirs.obj", 404, "NOT_FOUND"),
        (f"/uploads/{own}/mine.obj", 404, "NOT_FOUND"),
        (f"/api/sessions/{theirs}/stats", 403, "FORBIDDEN"),
        (f"/api/sessions/{theirs}.{client.cookie.partition('.')[2]}/stats", 403, "FORBIDDEN"),
        (f"/api/sessions/{own}%2f..%2f{theirs}/stats", 404, "NOT_FOUND"),
        ("/api/sessions/%2e%2e/stats", 404, "SESSION_NOT_FOUND"),
        ("/api/sessions/" + "a" * 9000 + "/stats", 404, "SESSION_NOT_FOUND"),
        (f"/api/jobs/{job['job_id']}", 404, "JOB_NOT_FOUND"),
        (f"/api/jobs/{job['job_id'].upper()}", 404, "JOB_NOT_FOUND"),
        (f"/api/jobs/urn:uuid:{job['job_id']}", 404, "JOB_NOT_FOUND"),
        ("/api/jobs/%ff%fe", 404, "JOB_NOT_FOUND"),
        ("/api/docs/../../../etc/passwd", 404, "NOT_FOUND"),
        ("/api/docs/assets/%2e%2e%2f%2e%2e%2fapp.py", 404, "NOT_FOUND"),
        ("/api/jobs?limit=99999999999999999999", 400, "INVALID_REQUEST"),
        ("/api/jobs?offset=2147483648", 400, "INVALID_REQUEST"),
        ("/api/jobs?status=%00", 400, "INVALID_REQUEST"),
    ):
        answer = exchange(client, request_head(client, "GET", target) + b"\r\n")
        assert_refused(answer, status, code)
    for target in (f"/api/sessions/{theirs}", "/api/sessions/" + "0" * 32):
        assert_refused(client.delete(target), 403, "FORBIDDEN")
    assert other.http.get(job["output_file"]).status_code == 200


# JSON


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{{{",
        b"[]",
        b"null",
        b'"text"',
        b"1e999",
        b'{"input_file":NaN}',
        b'{"input_file":["/uploads"]}',
        b'{"input_file":{"$ne":""}}',
        b'{"input_file":"\xff"}',
        b'{"input_file":' + b"9" * 10_000 + b"}",
        b"[" * 30_000,
        b'{"input_file":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"a":' * 8000 + b"1" + b"}" * 8000,
        b'{"input_file":"' + b"a" * 70_000 + b'"}',
        b" " * 5_000_000,
    ],
    ids=range(16),
)
def test_a_body_that_is_no_request_is_refused(client: Client, content: bytes) -> None:
    for kind in ("skeleton", "skinning", "merge"):
        headers = {**client.headers, "Content-Type": "application/json"}
        response = client.http.post(f"/api/jobs/{kind}", headers=headers, content=content)
        assert_refused(response, 400, "INVALID_REQUEST")


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/xml", "multipart/mixed"])
def test_a_body_of_another_type_is_refused(client: Client, content_type: str) -> None:
    content = json.dumps({"input_file": client.uploaded(TETRAHEDRON, "model.obj")}).encode()
    headers = {**client.headers, "Content-Type": content_type}
    response = client.http.post("/api/jobs/skeleton", headers=headers, content=content)
    assert_refused(response, 400, "INVALID_REQUEST")


@pytest.mark.parametrize("wanted", ["obj", "../fbx", "FBX", "", ["fbx"], {"fbx": 1}, 5])
def test_an_output_format_that_is_none_is_refused(client: Client, wanted: object) -> None:
    path = client.uploaded(TETRAHEDRON, "model.obj")
    request = {"skeleton_file": path, "skinning_file": path, "output_format": wanted}
    assert_refused(client.post("/api/jobs/merge", json=request), 400, "INVALID_REQUEST")


# HTTP


def request_head(client: Client, method: str, target: str) -> bytes:
    """A request's head but for its end, with the client's cookie and token."""
    return (
        f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Cookie: session_id={client.cookie}\r\nX-CSRF-Token: {client.token}\r\n"
    ).encode()


def exchange(client: Client, request: bytes) -> httpx.Response:
    """Sends bytes as they are; the answer, as far as it comes."""
    address = urlsplit(client.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        answer = b""
        try:
            connection.sendall(request)
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionError:
            pass  # the service has answered and hung up
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    return httpx.Response(int(status.split()[1]), headers=headers, content=body)


ODD_HEADS = {
    "no host": b"GET /api/health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /api/health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET /api/health HTTP/9.9\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "noise": bytes(range(256)) * 10,
    "a header of 200 KB": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 200_000 + b"\r\n\r\n",
    "20,000 headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    "an address of 100 KB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\0b\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\r\n b\r\n\r\n",
    "a blank before the colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "a method that is none": b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("head", ODD_HEADS)
def test_what_is_not_http_is_an_invalid_request(client: Client, head: str) -> None:
    assert_refused(exchange(client, ODD_HEADS[head]), 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Transfer-Encoding: chunked", b"ZZ\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"-5\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"FFFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: gzip", b"{}"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", b"2\r\n{}\r\n0\r\n\r\n"),
        ("Content-Length: 2\r\nContent-Length: 3", b"{}}"),
        ("Content-Length: -2", b"{}"),
        ("Content-Length: two", b"{}"),
        ("Content-Length: 99999999999999999999999", b"{}"),
    ],
)
@pytest.mark.parametrize("target", ["/api/jobs/skeleton", "/api/upload"])
def test_a_body_of_no_sure_length_is_an_invalid_request(
    client: Client, target: str, framing: str, body: bytes
) -> None:
    head = request_head(client, "POST", target) + b"Content-Type: application/json\r\n"
    answer = exchange(client, head + framing.encode() + b"\r\n\r\n" + body)
    assert_refused(answer, 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        (b"Cookie: session_id=\xff\xfe", 401, "UNAUTHORIZED"),
        (b"Cookie: session_id=" + b"a" * 30_000, 401, "UNAUTHORIZED"),
        (b"Cookie: ;;;===\xf0\x9f;session_id", 401, "UNAUTHORIZED"),
        (b"X-CSRF-Token: \xff\xfe", 401, "UNAUTHORIZED"),
    ],
)
def test_credentials_that_are_noise_open_nothing(
    client: Client, header: bytes, status: int, code: str
) -> None:
    head = b"GET /api/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert_refused(exchange(client, head + header + b"\r\n\r\n"), status, code)


# WebSocket (RFC 6455, section 5)


def frame(opcode: int, payload: bytes, *, final: bool = True, masked: bool = True) -> bytes:
    size, mask = len(payload), 0x80 if masked else 0
    if size < 126:
        length = bytes([mask | size])
    elif size < 2**16:
        length = bytes([mask | 126]) + struct.pack(">H", size)
    else:
        length = bytes([mask | 127]) + struct.pack(">Q", size)
    return bytes([final << 7 | opcode]) + length + bytes(4 if masked else 0) + payload


def handshake(client: Client, session: str) -> bytes:
    head = request_head(client, "GET", f"/ws?session={session}").replace(b"close", b"Upgrade")
    key = base64.b64encode(os.urandom(16))
    return head + (
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n" % key
    )


def opened(client: Client) -> socket.socket:
    """A WebSocket of the client's session, after its handshake."""
    address = urlsplit(client.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    connection.sendall(handshake(client, client.session_id))
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1)
    assert answer.startswith(b"HTTP/1.1 101")
    return connection


@pytest.mark.parametrize(
    ("frames", "close_code"),
    [
        (frame(1, b"a" * 4097), 1009),
        (frame(1, b"", final=False) + frame(0, b"a" * 100, final=False) * 200, 1009),
        (b"\x82\xff" + struct.pack(">Q", 2**63 - 1) + bytes(4), 1009),
        (b"\x82\xff" + b"\xff" * 8 + bytes(4), 1009),
        (frame(1, b"hi", masked=False), 1002),
        (frame(1 | 0x70, b"hi"), 1002),
        (frame(3, b""), 1002),
        (frame(15, b""), 1002),
        (frame(0, b"x"), 1002),
        (frame(9, b"x" * 126), 1002),
        (frame(9, b"x", final=False), 1002),
        (frame(8, b"x"), 1002),
        (frame(8, struct.pack(">H", 999)), 1002),
        (frame(1, b"\xff\xfe"), 1007),
        (b"GET / HTTP/1.1\r\n\r\n", 1002),
        (frame(8, struct.pack(">H", 1000)) + frame(1, b"late"), 1000),
    ],
    ids=range(16),
)
def test_frames_that_break_the_protocol_close_the_socket(
    client: Client, frames: bytes, close_code: int
) -> None:
    with opened(client) as connection:
        connection.sendall(frames)
        answer = connection.recv(4)
    assert answer[0] == 0x88
    assert struct.unpack(">H", answer[2:4]) == (close_code,)


def test_a_socket_that_is_flooded_still_tells_of_jobs(client: Client) -> None:
    path = client.uploaded(TETRAHEDRON.replace(b"f 2 3 4", b"f 2 3 9"), "broken.obj")
    with opened(client) as connection:
        connection.sendall(frame(1, b"x" * 100) * 20_000 + frame(2, os.urandom(4000)) * 100)
        connection.sendall((frame(1, b"", final=False) + frame(0, b"")) * 5000)
        client.finished("skeleton", input_file=path)
        heard = b""
        while b"job_failed" not in heard:
            heard += connection.recv(65536)


@pytest.mark.parametrize(
    "frames",
    [frame(9, b"x" * 100) * 1000, frame(1, b"", final=False) + frame(0, b"", final=False) * 1000],
    ids=["pings whose answers are not read", "a message of fragments of nothing"],
)
def test_a_flood_that_would_fill_the_memory_is_cut_off(client: Client, frames: bytes) -> None:
    with opened(client) as connection, pytest.raises(ConnectionError):
        for _ in range(1000):
            connection.sendall(frames)


def test_sockets_of_others_and_of_nobody_stay_shut(client: Client, other: Client) -> None:
    for session, status, code in (
        (other.session_id, 403, "FORBIDDEN"),
        (f"{other.session_id}.{client.cookie.partition('.')[2]}", 403, "FORBIDDEN"),
        ("", 400, "INVALID_REQUEST"),
        ("..%2f" + other.session_id, 403, "FORBIDDEN"),
        ("%00", 403, "FORBIDDEN"),
        ("a" * 3000, 403, "FORBIDDEN"),
    ):
        assert_refused(exchange(client, handshake(client, session)), status, code)


@pytest.mark.parametrize(
    ("replaced", "by"),
    [
        (b"GET", b"POST"),
        (b"Version: 13", b"Version: 99"),
        (b"Version: 13", b"Version: 13\r\nSec-WebSocket-Version: 13"),
        (b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: x"),
        (b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: AAAA\r\nSec-WebSocket-Key: "),
        (b"Sec-WebSocket-Key: ", b"X-Key: "),
        (b"Host: x", b"Host: x\r\nContent-Length: 5"),
        (b"Host: x", b"Host: x\r\nX-A: " + b"a" * 10_000),
        (b"Host: x", b"Host: x" + b"\r\nX-A: a" * 200),
        (b"?session=", b"?session=" + b"a" * 10_000),
    ],
)
def test_a_handshake_that_is_none_is_refused(client: Client, replaced: bytes, by: bytes) -> None:
    request = handshake(client, client.session_id).replace(replaced, by, 1)
    answer = exchange(client, request)
    assert_refused(answer, 400, "INVALID_REQUEST")
    assert answer.headers["sec-websocket-version"] == "13"
