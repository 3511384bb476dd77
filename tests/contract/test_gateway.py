"""The gateway over real HTTP and WebSockets, in front of real sessions, jobs and storage."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from nats.aio.client import Client as Nats
from unirig.v1 import (
    jobs_pb2,
    messages_pb2,
    sessions_pb2,
    sessions_pb2_grpc,
    storage_pb2,
    storage_pb2_grpc,
)
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from services.cli.servers import free_port, start_nats, start_redis
from services.common import broker, subjects
from services.common.errors import ApiError, ErrorCode
from services.common.rpc import RpcServer, open_channel
from services.gateway import server
from services.gateway.server import Gateway, serving
from services.gateway.settings import GatewaySettings
from tests.rate_limits import ROOMY
from tests.service_process import HOST, ServiceProcess

MIB = 2**20
OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


@dataclass(frozen=True)
class System:
    """The services behind the gateway, and how to reach them."""

    settings: GatewaySettings
    nats: Nats
    storage: "storage_pb2_grpc.StorageServiceAsyncStub"
    storage_folder: Path

    async def usage(self, session_id: str) -> storage_pb2.GetUsageResponse:
        request = storage_pb2.GetUsageRequest(session_id=session_id)
        return await self.storage.GetUsage(request, timeout=10)

    async def put_result(self, session_id: str, filename: str, content: bytes) -> str:
        header = storage_pb2.PutFileHeader(
            session_id=session_id,
            area=storage_pb2.AREA_RESULTS,
            filename=filename,
            lineage=storage_pb2.Lineage(job_id=secrets.token_hex(16), stage="skeleton"),
        )
        parts = [
            storage_pb2.PutFileRequest(header=header),
            storage_pb2.PutFileRequest(chunk=content),
            storage_pb2.PutFileRequest(commit=storage_pb2.PutFileCommit()),
        ]
        return str((await self.storage.PutFile(iter(parts), timeout=10)).file.path)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewaySettings, Path]]:
    folder = tmp_path_factory.mktemp("gateway")
    nats = start_nats(folder / "nats", free_port())
    redis = start_redis(folder / "redis", free_port())
    environments: dict[str, dict[str, str]] = {
        "storage": {
            "STORAGE_FOLDER": str(folder / "storage"),
            "DISK_WARNING_GB": "0",
            "DISK_CRITICAL_GB": "0",
        },
        "sessions": {"REDIS_URL": redis.url, "SIGNING_KEYS": "k" * 32, **ROOMY},
        "jobs": {"REDIS_URL": redis.url},
    }
    ports = {name: free_port() for name in environments}
    started = []
    try:
        for name, environment in environments.items():
            own = {"NATS_URL": nats.url, "GRPC_PORT": str(ports[name]), **environment}
            started.append(ServiceProcess(name, own, folder / f"{name}.log").start())
        yield (
            GatewaySettings(
                bind_host=HOST,
                http_port=0,
                nats_url=nats.url,
                sessions_address=f"{HOST}:{ports['sessions']}",
                jobs_address=f"{HOST}:{ports['jobs']}",
                storage_address=f"{HOST}:{ports['storage']}",
            ),
            folder / "storage",
        )
    finally:
        for service in started:
            service.kill()
        redis.stop()
        nats.stop()


@pytest.fixture(scope="module")
async def system(processes: tuple[GatewaySettings, Path]) -> AsyncIterator[System]:
    settings, folder = processes
    connection = await broker.connect(settings.nats_url, "test")
    async with open_channel(settings.storage_address, "unirig.v1.StorageService", []) as channel:
        stub = storage_pb2_grpc.StorageServiceStub(channel)
        yield System(settings, connection, stub, folder)
    await connection.close()


@pytest.fixture(scope="module")
async def gateway(system: System) -> AsyncIterator[Gateway]:
    async with serving(system.settings) as gateway:
        yield gateway


class Client:
    """A client with a session and its token."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.http = httpx.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=60)
        self.token = ""

    async def open(self) -> "Client":
        self.token = (await self.http.get("/api/csrf-token")).json()["csrf_token"]
        return self

    @property
    def cookie(self) -> str:
        return self.http.cookies["session_id"]

    @property
    def session_id(self) -> str:
        return self.cookie.partition(".")[0]

    async def post(self, path: str, **content: Any) -> httpx.Response:
        headers = {"X-CSRF-Token": self.token}
        if "content" in content:
            headers["Content-Type"] = "application/json"
        return await self.http.post(path, headers=headers, **content)

    async def delete(self, path: str) -> httpx.Response:
        return await self.http.delete(path, headers={"X-CSRF-Token": self.token})

    async def upload(self, name: str = "model.obj", content: bytes = OBJ) -> httpx.Response:
        return await self.post("/api/upload", files={"file": (name, content)})

    async def job(self) -> dict[str, Any]:
        path = (await self.upload()).json()["path"]
        response = await self.post("/api/jobs/skeleton", json={"input_file": path})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def socket(self, session: str | None = None, **headers: str) -> connect:
        shown = {"Cookie": f"session_id={self.cookie}", **headers}
        url = f"ws://{HOST}:{self.port}/ws?session={session or self.session_id}"
        return connect(url, additional_headers={k: v for k, v in shown.items() if v})


@contextlib.asynccontextmanager
async def client_of(port: int) -> AsyncIterator[Client]:
    client = Client(port)
    async with client.http:
        yield await client.open()


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[Client]:
    async with client_of(gateway.port) as client:
        yield client


@pytest.fixture
async def other(gateway: Gateway) -> AsyncIterator[Client]:
    async with client_of(gateway.port) as client:
        yield client


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of a refusal, which must be the standard one."""
    assert response.status_code == status, response.text
    body = dict(response.json())
    assert body["error_code"] == code, body
    assert body["detail"]
    assert time.strptime(body["timestamp"], "%Y-%m-%dT%H:%M:%SZ")
    assert response.headers["content-type"] == "application/json"
    return body


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 20
    while not await look():
        assert time.monotonic() < deadline, "it does not happen"
        await asyncio.sleep(0.02)


# --- Uploads that are refused while the client is still sending


def form(*parts: tuple[str, bytes]) -> bytes:
    body = b"".join(
        b"--cut\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    )
    return body + b"--cut--\r\n"


FILE = 'name="file"; filename="model.obj"'


@dataclass(frozen=True)
class Answer:
    head: str
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(" ")[1])

    def json(self) -> Any:
        return json.loads(self.body)


async def stubborn(
    client: Client,
    body: bytes,
    headers: dict[str, str] | None = None,
    content_type: str = "multipart/form-data; boundary=cut",
) -> Answer:
    """What a client reads that sends its whole body before it looks at the answer."""
    reader, writer = await asyncio.open_connection(HOST, client.port)
    lines = {
        "Host": HOST,
        "Cookie": f"session_id={client.cookie}",
        "X-CSRF-Token": client.token,
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    writer.write(f"POST /api/upload HTTP/1.1\r\n{head}\r\n".encode())
    for start in range(0, len(body), MIB):
        writer.write(body[start : start + MIB])
        await writer.drain()
    answer = await read_answer(reader)
    writer.close()
    return answer


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    async with asyncio.timeout(60):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
        return Answer(head, await reader.readexactly(length))


BIG = 8 * MIB


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (form(('name="file"; filename="a.exe"', bytes(BIG))), {}, 400, "INVALID_FILE_FORMAT"),
        (form(('name="file"; filename="a.glb"', bytes(BIG))), {}, 400, "INVALID_FILE_FORMAT"),
        (form((FILE, OBJ + bytes(BIG))), {}, 400, "INVALID_FILE_FORMAT"),
        (form(('name="note"', b"x" * BIG), (FILE, OBJ)), {}, 400, "INVALID_REQUEST"),
        (form((FILE, OBJ), (FILE, OBJ + b"#" * BIG)), {}, 400, "INVALID_REQUEST"),
        (form(('name="model"; filename="a.obj"', OBJ)), {}, 400, "INVALID_REQUEST"),
        (form(('name="file"', OBJ)), {}, 400, "INVALID_REQUEST"),
        (form((FILE, OBJ))[:-8], {}, 400, "INVALID_REQUEST"),
        (b"x" * BIG, {}, 400, "INVALID_REQUEST"),
        (b"", {}, 400, "INVALID_REQUEST"),
        (
            form((FILE, b"v 0 0 0\n" + b"#" * (101 * MIB))),
            {"Transfer-Encoding": ""},
            413,
            "FILE_TOO_LARGE",
        ),
        (form((FILE, OBJ + b"#" * BIG)), {"X-CSRF-Token": ""}, 403, "CSRF_TOKEN_MISSING"),
        (form((FILE, OBJ + b"#" * BIG)), {"X-CSRF-Token": "no"}, 403, "CSRF_TOKEN_INVALID"),
        (form((FILE, b"")), {}, 400, "INVALID_FILE_FORMAT"),
    ],
)
async def test_a_refused_upload_can_read_why_and_leaves_nothing(
    system: System, client: Client, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await stubborn(client, body, headers)
    assert (answer.status, answer.json()["error_code"]) == (status, code)
    assert "x-ratelimit-remaining: " in answer.head
    usage = await system.usage(client.session_id)
    assert (usage.uploads, usage.bytes) == (0, 0)


async def test_the_texts_of_upload_refusals_are_the_references(client: Client) -> None:
    wrong = await client.upload("model.txt")
    assert wrong.json()["detail"] == "Invalid file format. Supported: .obj, .fbx, .glb, .vrm"
    content = await client.upload("model.glb", OBJ)
    assert content.json()["detail"].startswith(
        "Invalid file format. Supported: .obj, .fbx, .glb, .vrm"
    )
    large = await stubborn(
        client, b"", {"Content-Length": str(200 * MIB), "Expect": "100-continue"}
    )
    assert large.json()["detail"] == "File size exceeds maximum allowed size of 100MB"


async def test_exactly_one_hundred_megabytes_are_taken_and_one_byte_more_is_not(
    system: System, client: Client
) -> None:
    content = OBJ + b"#" * (100 * MIB - len(OBJ))
    answer = await stubborn(client, form((FILE, content)))
    assert (answer.status, answer.json()["size"]) == (200, 100 * MIB)
    answer = await stubborn(client, form((FILE, content + b"#")))
    assert (answer.status, answer.json()["error_code"]) == (413, "FILE_TOO_LARGE")
    assert (await system.usage(client.session_id)).uploads == 1


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/form-data"])
async def test_an_upload_of_another_type_is_refused(client: Client, content_type: str) -> None:
    answer = await stubborn(client, form((FILE, OBJ)), content_type=content_type)
    assert (answer.status, answer.json()["error_code"]) == (400, "INVALID_REQUEST")


async def test_a_client_that_asks_first_is_told_to_continue_only_if_it_may(client: Client) -> None:
    body = form((FILE, OBJ))
    for token, first, last in ((client.token, 100, 200), ("wrong", 403, 403)):
        reader, writer = await asyncio.open_connection(HOST, client.port)
        writer.write(
            f"POST /api/upload HTTP/1.1\r\nHost: {HOST}\r\nCookie: session_id={client.cookie}\r\n"
            f"X-CSRF-Token: {token}\r\nContent-Type: multipart/form-data; boundary=cut\r\n"
            f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        line = await reader.readline()
        assert int(line.split(b" ")[1]) == first
        if first == 100:
            await reader.readline()
            writer.write(body)
            line = await reader.readline()
        assert int(line.split(b" ")[1]) == last
        writer.close()


async def test_a_form_that_never_ends_is_given_up(system: System, client: Client) -> None:
    reader, writer = await asyncio.open_connection(HOST, client.port)
    head = _upload_head(client, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    for piece in (head, *(b"%x\r\n%b\r\n" % (len(data), data) for data in _endless_form())):
        writer.write(piece)
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    answer = await read_answer(reader)
    assert (answer.status, answer.json()["error_code"]) == (413, "FILE_TOO_LARGE")
    assert (await system.usage(client.session_id)).uploads == 0
    writer.close()


def _endless_form() -> Iterator[bytes]:
    yield form((FILE, OBJ))
    for _ in range(105):
        yield b"x" * MIB


def _upload_head(client: Client, length: int) -> bytes:
    return (
        f"POST /api/upload HTTP/1.1\r\nHost: {HOST}\r\nCookie: session_id={client.cookie}\r\n"
        f"X-CSRF-Token: {client.token}\r\nContent-Type: multipart/form-data; boundary=cut\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


async def test_a_client_that_leaves_in_mid_upload_leaves_nothing(
    system: System, client: Client
) -> None:
    before = _bytes_below(system.storage_folder)
    _, writer = await asyncio.open_connection(HOST, client.port)
    head = form((FILE, OBJ))[: -len(b"\r\n--cut--\r\n")]
    writer.write(_upload_head(client, 50 * MIB) + head + b"#" * (4 * MIB))
    await writer.drain()

    async def some_bytes_stored() -> bool:
        return _bytes_below(system.storage_folder) > before + MIB

    async def none_stored() -> bool:
        return _bytes_below(system.storage_folder) <= before

    await eventually(some_bytes_stored)
    writer.close()
    await eventually(none_stored)
    assert (await system.usage(client.session_id)).uploads == 0


def _bytes_below(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size if path.is_file() else 0
    return found


async def test_an_upload_that_goes_silent_is_given_up(system: System) -> None:
    settings = system.settings.model_copy(update={"upload_idle_seconds": 0.2})
    async with serving(settings) as gateway, client_of(gateway.port) as client:
        answer = await stubborn(client, form((FILE, OBJ))[:-8], {"Content-Length": "1000"})
        assert (answer.status, answer.json()["error_code"]) == (400, "INVALID_REQUEST")


async def test_the_cookies_whole_value_may_stand_for_the_session_everywhere(
    system: System, client: Client
) -> None:
    await client.upload()
    created = await client.post(
        "/api/jobs/skeleton", json={"input_file": f"/uploads/{client.cookie}/model.obj"}
    )
    assert created.json()["input_file"] == f"/uploads/{client.session_id}/model.obj"
    await system.put_result(client.session_id, "a.fbx", b"rigged")
    assert (await client.http.get(f"/results/{client.cookie}/a.fbx")).content == b"rigged"
    stats = await client.http.get(f"/api/sessions/{client.cookie}/stats")
    assert stats.json()["session_id"] == client.session_id
    async with client.socket(session=client.cookie) as socket:
        assert json.loads(await socket.recv())["job_id"] == created.json()["job_id"]
    secret = client.cookie.partition(".")[2]
    for response in (created, stats):
        assert secret not in response.text


# --- Jobs


async def test_bodies_that_are_no_request_are_refused_in_the_standard_way(client: Client) -> None:
    path = "/api/jobs/skeleton"
    for content in (
        b"{not json",
        b"[]",
        b"null",
        b"",
        b'{"input_file": 5}',
        b"{}",
        b"[" * 20_000,
        b'{"input_file": ' + b"1" * 5000 + b"}",
        b'"' + b"x" * 100_000 + b'"',
    ):
        response = await client.post(path, content=content)
        refused(response, 400, "INVALID_REQUEST")
        assert "x-ratelimit-limit" in response.headers
    refused(await client.post(path, data={"input_file": "x"}), 400, "INVALID_REQUEST")


async def test_a_file_that_the_session_does_not_have_is_not_found(
    client: Client, other: Client
) -> None:
    taken = (await other.upload()).json()["path"]
    for path in (
        taken,
        f"/uploads/{client.session_id}/none.obj",
        f"/uploads/{client.session_id}/../{other.session_id}/model.obj",
        "/etc/passwd",
        "model.obj",
        "",
        f"/uploads/{client.session_id}/a\0b.obj",
        f"/uploads/{client.session_id}/\ud800.obj",
    ):
        refused(
            await client.post("/api/jobs/skeleton", content=json.dumps({"input_file": path})),
            404,
            "FILE_NOT_FOUND",
        )
    own = (await client.upload()).json()["path"]
    for field in ("skeleton_file", "skinning_file", "target_file"):
        body = {"skeleton_file": own, "skinning_file": own, "target_file": own, field: taken}
        refused(await client.post("/api/jobs/merge", json=body), 404, "FILE_NOT_FOUND")


async def test_a_merge_job_shows_all_it_was_given(client: Client) -> None:
    path = (await client.upload()).json()["path"]
    body = {"skeleton_file": path, "skinning_file": path, "unknown": "ignored"}
    created = (await client.post("/api/jobs/merge", json=body)).json()
    expected = {
        "type": "merge",
        "input_file": path,
        "skeleton_file": path,
        "skinning_file": path,
        "output_format": "fbx",
        "target_file": None,
    }
    shown = (await client.http.get(f"/api/jobs/{created['job_id']}")).json()
    for answer in (created, shown):
        assert expected.items() <= answer.items()


async def test_an_obj_cannot_be_merged_into(client: Client) -> None:
    path = (await client.upload()).json()["path"]
    body = {"skeleton_file": path, "skinning_file": path, "output_format": "obj"}
    answer = refused(await client.post("/api/jobs/merge", json=body), 400, "INVALID_REQUEST")
    assert "cannot hold a rig" in answer["detail"]


@pytest.mark.parametrize(
    "query",
    ["status=done", "limit=0", "limit=201", "limit=x", "offset=-1", "offset=99999999999999999999"],
)
async def test_a_page_that_cannot_be_is_refused(client: Client, query: str) -> None:
    refused(await client.http.get(f"/api/jobs?{query}"), 400, "INVALID_REQUEST")


@pytest.mark.parametrize("job_id", ["none", "x" * 3000, "%00", "00000000-0000-0000-0000-00000000"])
async def test_what_is_no_job_id_is_not_found(client: Client, job_id: str) -> None:
    refused(await client.http.get(f"/api/jobs/{job_id}"), 404, "JOB_NOT_FOUND")
    refused(await client.post(f"/api/jobs/{job_id}/cancel"), 404, "JOB_NOT_FOUND")
    refused(await client.delete(f"/api/jobs/{job_id}"), 404, "JOB_NOT_FOUND")


# --- Sessions


async def test_another_sessions_statistics_are_forbidden(client: Client, other: Client) -> None:
    for session in (other.session_id, other.cookie, "0" * 32):
        refused(await client.http.get(f"/api/sessions/{session}/stats"), 403, "FORBIDDEN")
        refused(await client.delete(f"/api/sessions/{session}"), 403, "FORBIDDEN")
    refused(await client.http.get("/api/sessions/nonsense/stats"), 404, "SESSION_NOT_FOUND")
    refused(
        await httpx.AsyncClient().get(f"http://{HOST}:{client.port}/api/sessions/x/stats"),
        401,
        "UNAUTHORIZED",
    )


async def test_a_session_that_was_never_stored_has_done_nothing(client: Client) -> None:
    stats = (await client.http.get(f"/api/sessions/{client.session_id}/stats")).json()
    assert stats["total_jobs"] == stats["total_uploads"] == stats["storage_used_mb"] == 0
    assert time.strptime(stats["created_at"], "%Y-%m-%dT%H:%M:%SZ")


async def test_a_deleted_session_is_gone_with_its_cookie(system: System, client: Client) -> None:
    await client.job()
    session_id = client.session_id
    response = await client.delete(f"/api/sessions/{session_id}")
    assert response.json() == {
        "message": "Session deleted successfully",
        "files_deleted": 1,
        "storage_freed_mb": 0.0,
    }
    cookies = response.headers.get_list("set-cookie")
    assert len(cookies) == 1
    assert "Max-Age=0" in cookies[0]
    assert "session_id" not in client.http.cookies
    assert (await system.usage(session_id)).uploads == 0


# --- Downloads


@pytest.fixture
async def result(system: System, client: Client) -> str:
    return await system.put_result(client.session_id, "rig.fbx", bytes(range(256)) * 5000)


async def test_a_download_is_an_attachment(client: Client, result: str) -> None:
    response = await httpx.AsyncClient().get(f"http://{HOST}:{client.port}{result}")
    assert response.content == bytes(range(256)) * 5000
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"] == 'attachment; filename="rig.fbx"'
    assert response.headers["x-content-type-options"] == "nosniff"
    head = await client.http.head(result)
    assert head.headers["content-length"] == str(256 * 5000)
    assert (head.status_code, head.content) == (200, b"")


async def test_a_part_of_a_download_can_be_asked_for(client: Client, result: str) -> None:
    whole = await client.http.get(result)
    part = await client.http.get(result, headers={"Range": "bytes=1000000-1000009"})
    assert (part.status_code, part.content) == (206, whole.content[1000000:1000010])
    assert part.headers["content-range"] == "bytes 1000000-1000009/1280000"
    etag = whole.headers["etag"]
    for condition, status in ((etag, 206), ('"other"', 200), (whole.headers["last-modified"], 206)):
        resumed = await client.http.get(
            result, headers={"Range": "bytes=5-", "If-Range": condition}
        )
        assert resumed.status_code == status
    beyond = await client.http.get(result, headers={"Range": "bytes=1280000-"})
    refused(beyond, 416, "RANGE_NOT_SATISFIABLE")
    assert beyond.headers["content-range"] == "bytes */1280000"


async def test_an_unchanged_download_is_not_sent_again(client: Client, result: str) -> None:
    whole = await client.http.get(result)
    for headers in (
        {"If-None-Match": whole.headers["etag"]},
        {"If-None-Match": f'"x", W/{whole.headers["etag"]}'},
        {"If-None-Match": "*"},
        {"If-Modified-Since": whole.headers["last-modified"]},
    ):
        again = await client.http.get(result, headers=headers)
        assert (again.status_code, again.content) == (304, b"")
    changed = {"If-None-Match": '"x"', "If-Modified-Since": whole.headers["last-modified"]}
    assert (await client.http.get(result, headers=changed)).status_code == 200


async def test_downloads_of_others_and_of_nothing_are_not_found(
    client: Client, other: Client, result: str
) -> None:
    refused(await other.http.get(result), 404, "FILE_NOT_FOUND")
    for path in (
        f"/results/{client.session_id}/none.fbx",
        f"/results/{client.session_id}/..%2f..%2fetc%2fpasswd",
        f"/results/{client.session_id}/a/b",
        f"/results/{client.session_id}/",
        "/results/x/y",
        f"/results/{'0' * 32}/rig.fbx",
    ):
        refused(await client.http.get(path), 404, "FILE_NOT_FOUND")


async def test_downloads_can_be_made_to_need_the_cookie(system: System) -> None:
    settings = system.settings.model_copy(update={"results_require_cookie": True})
    async with serving(settings) as gateway, client_of(gateway.port) as client:
        path = await system.put_result(client.session_id, "rig.fbx", b"rigged")
        assert (await client.http.get(path)).content == b"rigged"
        without = await httpx.AsyncClient().get(f"http://{HOST}:{gateway.port}{path}")
        refused(without, 401, "UNAUTHORIZED")


# --- WebSockets


async def event(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(30):
        return dict(json.loads(await socket.recv()))


@dataclass
class Worker:
    """Takes one job as the inference service does."""

    nats: Nats
    job_id: str
    message: Any

    @classmethod
    async def take(cls, nats: Nats, job_id: str) -> "Worker":
        subscription = await nats.jetstream().pull_subscribe_bind(
            subjects.JOBS_CONSUMER, subjects.JOBS_STREAM
        )
        while True:
            message = (await subscription.fetch(1, timeout=20))[0]
            claim = messages_pb2.ClaimJob(
                job_id=messages_pb2.RunJob.FromString(message.data).job_id,
                attempt=1,
                engine="test",
                engine_version="1",
            )
            await nats.request(subjects.CLAIM, claim.SerializeToString(), timeout=10)
            if claim.job_id == job_id:
                await subscription.unsubscribe()
                return cls(nats, job_id, message)
            await message.ack()

    async def progress(self, progress: int, text: str) -> None:
        told = messages_pb2.JobProgress(
            job_id=self.job_id, attempt=1, progress=progress, message=text
        )
        await self.nats.publish(subjects.progress(self.job_id), told.SerializeToString())

    async def finish(self, **outcome: Any) -> None:
        told = messages_pb2.JobOutcome(job_id=self.job_id, attempt=1, **outcome)
        await self.nats.jetstream().publish(subjects.JOB_OUTCOME, told.SerializeToString())
        await self.message.ack()


async def test_a_socket_tells_a_job_from_its_start_to_its_end(
    system: System, client: Client
) -> None:
    job_id = (await client.job())["job_id"]
    async with client.socket() as socket:
        assert (
            await event(socket)
            == {
                "type": "job_progress",
                "job_id": job_id,
                "progress": 0,
                "status": "pending",
                "message": "Waiting in queue",
            }
            or (await client.http.get(f"/api/jobs/{job_id}")).json()["status"] == "pending"
        )
        worker = await Worker.take(system.nats, job_id)
        await worker.progress(45, "Predicting skeleton")
        while (told := await event(socket))["progress"] != 45:
            assert told["type"] == "job_progress"
        assert told == {
            "type": "job_progress",
            "job_id": job_id,
            "progress": 45,
            "status": "running",
            "message": "Predicting skeleton",
        }
        path = await system.put_result(client.session_id, "model_skeleton.obj", b"x")
        artifact = jobs_pb2.Artifact(format="obj", path=path, size=1)
        await worker.finish(
            succeeded=messages_pb2.JobSucceeded(output_file=path, artifacts=[artifact])
        )
        assert await event(socket) == {
            "type": "job_completed",
            "job_id": job_id,
            "status": "completed",
            "output_file": path,
        }
        # Who sees the event can get the job and the file.
        shown = (await client.http.get(f"/api/jobs/{job_id}")).json()
        assert (shown["status"], shown["output_file"], shown["engine"]) == (
            "completed",
            path,
            "test",
        )
        assert (await client.http.get(path)).status_code == 200


async def test_a_socket_tells_failures_and_cancellations(system: System, client: Client) -> None:
    async with client.socket() as socket:
        failing = (await client.job())["job_id"]
        worker = await Worker.take(system.nats, failing)
        await worker.finish(
            failed=messages_pb2.JobFailed(error="GPU out of memory", error_code="GPU_OUT_OF_MEMORY")
        )
        while (told := await event(socket))["type"] == "job_progress":
            pass
        assert told == {
            "type": "job_failed",
            "job_id": failing,
            "status": "failed",
            "error": "GPU out of memory",
            "error_code": "GPU_OUT_OF_MEMORY",
        }
        cancelled = (await client.job())["job_id"]
        await client.post(f"/api/jobs/{cancelled}/cancel")
        while (told := await event(socket))["type"] == "job_progress":
            pass
        assert told == {"type": "job_cancelled", "job_id": cancelled, "status": "cancelled"}


async def test_a_socket_of_a_session_without_active_jobs_starts_silent(client: Client) -> None:
    job_id = (await client.job())["job_id"]
    await client.post(f"/api/jobs/{job_id}/cancel")
    async with client.socket() as socket:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await socket.recv()


async def test_a_socket_begins_with_the_state_of_the_active_job(system: System) -> None:
    settings = system.settings.model_copy(update={"websocket_refresh_seconds": 3600})
    async with serving(settings) as gateway, client_of(gateway.port) as client:
        job_id = (await client.job())["job_id"]
        # No worker runs here: nothing but the connecting makes it known.
        async with client.socket() as socket:
            first = await event(socket)
            assert (first["type"], first["job_id"]) == ("job_progress", job_id)
            assert (first["status"], first["progress"]) == ("pending", 0)


@pytest.mark.parametrize(
    ("session", "headers", "status", "code"),
    [
        ("own", {"Cookie": ""}, 401, "UNAUTHORIZED"),
        ("own", {"Cookie": "session_id=forged"}, 401, "UNAUTHORIZED"),
        ("other", {}, 403, "FORBIDDEN"),
        ("nonsense", {}, 403, "FORBIDDEN"),
        ("own", {"Origin": "https://evil.example"}, 403, "FORBIDDEN"),
        ("own", {"Origin": "null"}, 403, "FORBIDDEN"),
    ],
)
async def test_a_socket_is_refused_before_it_opens(
    client: Client, other: Client, session: str, headers: dict[str, str], status: int, code: str
) -> None:
    named = {"own": client.session_id, "other": other.session_id}.get(session, session)
    with pytest.raises(InvalidStatus) as refusal:
        async with client.socket(named, **headers):
            pass
    response = refusal.value.response
    assert response.status_code == status
    assert json.loads(response.body)["error_code"] == code
    assert response.headers["X-Request-ID"]


async def test_pages_of_this_host_and_of_the_list_may_open_a_socket(system: System) -> None:
    settings = system.settings.model_copy(update={"allowed_origins": ("https://app.example",)})
    async with serving(settings) as gateway, client_of(gateway.port) as client:
        for origin in (f"http://{HOST}:{gateway.port}", "https://app.example"):
            async with client.socket(Origin=origin):
                pass


async def test_deleting_the_session_closes_its_sockets(client: Client, other: Client) -> None:
    async with client.socket() as socket, other.socket() as untouched:
        await client.delete(f"/api/sessions/{client.session_id}")
        with pytest.raises(ConnectionClosed):
            await event(socket)
        assert socket.close_code == 1000
        await untouched.ping()
        assert untouched.close_code is None


async def test_a_gateway_that_stops_closes_its_sockets_as_going_away(system: System) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with serving(system.settings) as gateway:
            client = await stack.enter_async_context(client_of(gateway.port))
            sockets = [await stack.enter_async_context(client.socket()) for _ in range(3)]
            assert gateway.ready
        assert not gateway.ready
        for socket in sockets:
            with pytest.raises(ConnectionClosed):
                await event(socket)
            assert socket.close_code == 1001


async def test_a_socket_learns_of_an_end_that_nats_did_not_tell(system: System) -> None:
    settings = system.settings.model_copy(
        update={"nats_url": f"nats://{HOST}:1", "websocket_refresh_seconds": 0.1}
    )
    async with serving(settings) as gateway, client_of(gateway.port) as client:
        job_id = (await client.job())["job_id"]
        async with client.socket() as socket:
            assert (await event(socket))["status"] == "pending"
            await client.post(f"/api/jobs/{job_id}/cancel")
            assert await event(socket) == {
                "type": "job_cancelled",
                "job_id": job_id,
                "status": "cancelled",
            }


# --- Around every answer


async def test_every_api_answer_has_the_rate_limit_and_every_answer_an_id(client: Client) -> None:
    for method, path in (
        ("GET", "/api/health"),
        ("GET", "/api/docs"),
        ("GET", "/api/docs/assets/swagger-ui.css"),
        ("GET", "/api/openapi.json"),
        ("GET", "/api/disk-space"),
        ("GET", "/api/nothing"),
        ("GET", "/api"),
        ("PUT", "/api/jobs"),
        ("GET", "/api/jobs"),
        ("POST", "/api/jobs/skeleton"),
        ("GET", "/api/jobs/none"),
        ("GET", "/api/sessions/x/stats"),
    ):
        response = await client.http.request(method, path)
        for name in ("limit", "remaining", "reset"):
            assert int(response.headers[f"x-ratelimit-{name}"]) >= 0, path
        assert response.headers["x-request-id"]
        assert response.headers["x-content-type-options"] == "nosniff"
        if response.status_code >= 400:
            assert set(response.json()) == {"detail", "error_code", "timestamp"}


async def test_a_request_keeps_the_id_it_came_with_if_it_is_a_plain_one(client: Client) -> None:
    for shown, kept in (("trace-7.a_B", True), ("a b", False), ("x" * 65, False), ("ü", False)):
        answer = await client.http.get("/healthz", headers={b"X-Request-ID": shown.encode()})
        assert (answer.headers["x-request-id"] == shown) is kept


async def test_what_is_not_http_is_refused_in_the_standard_way(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection(HOST, gateway.port)
    writer.write(b"NONSENSE\r\n\r\n")
    answer = await read_answer(reader)
    assert (answer.status, answer.json()["error_code"]) == (400, "INVALID_REQUEST")
    writer.close()


@pytest.mark.parametrize(
    "head", [b"X: " + b"x" * 200_000, b"".join(b"X-%d: y\r\n" % n for n in range(20_000))]
)
async def test_a_request_head_without_end_is_refused(gateway: Gateway, head: bytes) -> None:
    reader, writer = await asyncio.open_connection(HOST, gateway.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + head)
    answer = await read_answer(reader)
    assert (answer.status, answer.json()["error_code"]) == (400, "INVALID_REQUEST")
    writer.close()


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
async def test_a_request_head_that_does_not_come_is_given_up(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(server, "_HEAD_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection(HOST, gateway.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * bool(begun))
    if begun:
        assert (await read_answer(reader)).status == 200
    writer.write(begun)
    answer = await read_answer(reader)
    assert (answer.status, answer.json()["error_code"]) == (400, "INVALID_REQUEST")
    assert await reader.read() == b""
    writer.close()


async def test_requests_follow_each_other_on_one_connection(client: Client) -> None:
    reader, writer = await asyncio.open_connection(HOST, client.port)
    for _ in range(40):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Filler: " + b"x" * 4000 + b"\r\n\r\n")
        assert (await read_answer(reader)).body == b"ok\n"
    writer.close()


async def test_unknown_paths_and_methods_are_refused_in_the_standard_way(client: Client) -> None:
    refused(await client.http.get("/nowhere"), 404, "NOT_FOUND")
    response = await client.http.put("/api/upload")
    refused(response, 405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "POST"


async def test_the_cookie_is_secure_behind_tls_of_a_trusted_proxy_only(system: System) -> None:
    for trusted, is_secure in (((f"{HOST}/32",), True), (("10.0.0.0/8",), False), ((), False)):
        settings = system.settings.model_copy(update={"trusted_proxies": trusted})
        async with serving(settings) as gateway:
            answer = await httpx.AsyncClient().get(
                f"http://{HOST}:{gateway.port}/api/csrf-token",
                headers={"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"},
            )
        attributes = {part.strip() for part in answer.headers["set-cookie"].split(";")}
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= attributes
        assert ("Secure" in attributes) is is_secure


async def test_pages_of_other_origins_may_call_only_if_they_are_listed(system: System) -> None:
    settings = system.settings.model_copy(update={"cors_origins": ("https://app.example",)})
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-csrf-token",
    }
    async with serving(settings) as gateway, httpx.AsyncClient() as http:
        url = f"http://{HOST}:{gateway.port}/api/upload"
        for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
            answer = await http.options(url, headers={"Origin": origin, **preflight})
            assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
            answer = await http.post(url, headers={"Origin": origin})
            assert (answer.headers.get("access-control-allow-origin") == origin) is allowed


async def test_the_documentation_needs_no_other_server(client: Client) -> None:
    for page in ("/api/docs", "/api/redoc"):
        answer = await client.http.get(page)
        assert answer.status_code == 200
        assert "//" not in answer.text.replace("<!DOCTYPE", "").replace('lang="en"', "")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        for asset in answer.text.split('"'):
            if asset.startswith("/") and not asset.endswith("/redoc"):
                assert (await client.http.get(asset)).status_code == 200, asset


# --- When something behind is missing


async def test_without_the_services_behind_there_is_a_clear_503(system: System) -> None:
    down = f"{HOST}:1"
    settings = system.settings.model_copy(
        update={"sessions_address": down, "jobs_address": down, "storage_address": down}
    )
    async with serving(settings) as gateway, httpx.AsyncClient() as http:
        base = f"http://{HOST}:{gateway.port}"
        for path in ("/api/health", "/api/csrf-token", "/api/jobs", "/api/disk-space"):
            answer = await http.get(base + path)
            body = refused(answer, 503, "SERVICE_UNAVAILABLE")
            assert int(answer.headers["retry-after"]) > 0
            assert HOST not in body["detail"]
        for path in ("/healthz", "/readyz", "/api/docs", "/"):
            assert (await http.get(base + path)).status_code == 200


class FullStorage(storage_pb2_grpc.StorageServiceServicer):
    """A storage service whose disk is critical."""

    async def GetDiskSpace(self, request: Any, context: Any) -> Any:
        return storage_pb2.GetDiskSpaceResponse(
            total=100,
            used=97,
            free=3,
            status=storage_pb2.DISK_STATUS_CRITICAL,
            warning_threshold_gb=10,
            critical_threshold_gb=2.5,
        )

    async def StatFile(self, request: Any, context: Any) -> Any:
        return storage_pb2.StatFileResponse(file=storage_pb2.FileInfo(path=request.path))


async def test_a_full_disk_refuses_uploads_and_jobs_and_goes_on_reading(system: System) -> None:
    storage = RpcServer(HOST, 0)
    full = FullStorage()  # type: ignore[abstract]
    storage_pb2_grpc.add_StorageServiceServicer_to_server(full, storage.server)
    port = await storage.start(["unirig.v1.StorageService"])
    settings = system.settings.model_copy(update={"storage_address": f"{HOST}:{port}"})
    async with serving(settings) as gateway, client_of(gateway.port) as client:
        response = await client.upload()
        refused(response, 503, "STORAGE_FULL")
        assert int(response.headers["retry-after"]) > 0
        path = f"/uploads/{client.session_id}/model.obj"
        created = await client.post("/api/jobs/skeleton", json={"input_file": path})
        refused(created, 503, "STORAGE_FULL")
        assert (await client.http.get("/api/jobs")).status_code == 200
        assert (await client.http.get("/api/disk-space")).json() == {
            "total": 100,
            "used": 97,
            "free": 3,
            "percent_used": 97.0,
            "status": "critical",
            "warning_threshold_gb": 10,
            "critical_threshold_gb": 2.5,
        }
    await storage.stop(0)


class Counting(sessions_pb2_grpc.SessionsServiceServicer):
    """Sessions that grants everything and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def Authorize(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return sessions_pb2.AuthorizeResponse(session_id="a" * 32)


async def test_every_request_asks_sessions_once_with_what_it_needs(system: System) -> None:
    counting = Counting()  # type: ignore[abstract]
    server = RpcServer(HOST, 0)
    sessions_pb2_grpc.add_SessionsServiceServicer_to_server(counting, server.server)
    port = await server.start(["unirig.v1.SessionsService"])
    settings = system.settings.model_copy(
        update={"sessions_address": f"{HOST}:{port}", "trusted_proxies": (f"{HOST}/32",)}
    )
    async with serving(settings) as gateway:
        http = httpx.AsyncClient(
            base_url=f"http://{HOST}:{gateway.port}",
            headers={"X-Forwarded-For": "198.51.100.7, 203.0.113.9", "X-CSRF-Token": "token"},
            cookies={"session_id": "cookie"},
        )
        job = "/api/jobs/00000000-0000-0000-0000-000000000000"
        for method, path, access in (
            ("GET", "/api/csrf-token", sessions_pb2.ACCESS_ISSUE_TOKEN),
            ("POST", "/api/upload", sessions_pb2.ACCESS_UPLOAD),
            ("POST", "/api/jobs/skeleton", sessions_pb2.ACCESS_WRITE),
            ("GET", job, sessions_pb2.ACCESS_READ),
            ("POST", f"{job}/cancel", sessions_pb2.ACCESS_WRITE),
            ("DELETE", job, sessions_pb2.ACCESS_WRITE),
            ("GET", "/api/jobs", sessions_pb2.ACCESS_READ),
            ("GET", f"/api/sessions/{'a' * 32}/stats", sessions_pb2.ACCESS_READ),
            ("GET", f"/results/{'a' * 32}/x.fbx", sessions_pb2.ACCESS_OPTIONAL),
            ("GET", "/api/health", sessions_pb2.ACCESS_PEEK),
            ("GET", "/api/disk-space", sessions_pb2.ACCESS_PEEK),
            ("GET", "/api/nothing", sessions_pb2.ACCESS_PEEK),
        ):
            await http.request(method, path)
            (asked,) = counting.asked
            assert asked.access == access, path
            assert (asked.cookie, asked.csrf_token) == ("cookie", "token")
            assert asked.client_address == "203.0.113.9"
            counting.asked.clear()
        for path in ("/", "/favicon.svg", "/assets/index.js", "/healthz"):
            await http.get(path)
        assert counting.asked == []
        await http.aclose()
    await server.stop(0)


class Exhausted(sessions_pb2_grpc.SessionsServiceServicer):
    """Sessions whose limit is used up."""

    async def Authorize(self, request: Any, context: Any) -> Any:
        raise ApiError(
            ErrorCode.RATE_LIMIT_EXCEEDED,
            "Rate limit exceeded. Try again in 45 minutes.",
            {"limit": "10", "remaining": "0", "reset": "1699876800", "retry_after": "2700"},
        )


async def test_a_used_up_limit_says_when_to_come_back(system: System) -> None:
    server = RpcServer(HOST, 0)
    exhausted = Exhausted()  # type: ignore[abstract]
    sessions_pb2_grpc.add_SessionsServiceServicer_to_server(exhausted, server.server)
    port = await server.start(["unirig.v1.SessionsService"])
    settings = system.settings.model_copy(update={"sessions_address": f"{HOST}:{port}"})
    async with serving(settings) as gateway, httpx.AsyncClient() as http:
        response = await http.post(
            f"http://{HOST}:{gateway.port}/api/upload", files={"file": ("a.obj", OBJ)}
        )
        assert response.status_code == 429
        body = response.json()
        assert body.pop("timestamp")
        assert body == {
            "detail": "Rate limit exceeded. Try again in 45 minutes.",
            "error_code": "RATE_LIMIT_EXCEEDED",
            "retry_after": 2700,
        }
        shown = {
            name: response.headers[name]
            for name in (
                "retry-after",
                "x-ratelimit-limit",
                "x-ratelimit-remaining",
                "x-ratelimit-reset",
            )
        }
        assert list(shown.values()) == ["2700", "10", "0", "1699876800"]
    await server.stop(0)


async def test_a_gateway_that_stops_finishes_the_upload_it_has_begun(system: System) -> None:
    body = form((FILE, OBJ + b"#" * MIB))
    async with contextlib.AsyncExitStack() as stack:
        async with serving(system.settings) as gateway:
            client = await stack.enter_async_context(client_of(gateway.port))
            reader, writer = await asyncio.open_connection(HOST, gateway.port)
            writer.write(_upload_head(client, len(body)) + body[: MIB // 2])
            await writer.drain()
            await asyncio.sleep(0.1)

            async def send_the_rest() -> Answer:
                await asyncio.sleep(0.3)
                writer.write(body[MIB // 2 :])
                return await read_answer(reader)

            rest = asyncio.create_task(send_the_rest())
        answer = await rest
        assert answer.status == 200, answer.body
        assert (await system.usage(client.session_id)).uploads == 1
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, gateway.port)
        writer.close()


# --- The process


async def test_the_process_logs_no_secret_and_stops_in_order(
    system: System, tmp_path: Path
) -> None:
    settings = system.settings
    log = tmp_path / "gateway.log"
    port = free_port()
    process = ServiceProcess(
        "gateway",
        {
            "HTTP_PORT": str(port),
            "NATS_URL": settings.nats_url,
            "SESSIONS_ADDRESS": settings.sessions_address,
            "JOBS_ADDRESS": settings.jobs_address,
            "STORAGE_ADDRESS": settings.storage_address,
        },
        log,
    ).start()
    async with client_of(port) as client:
        job_id = (await client.job())["job_id"]
        await client.http.get(f"/api/sessions/{client.cookie}/stats")
        await client.http.get(f"/results/{client.cookie}/none.fbx?token={client.token}")
        with pytest.raises(InvalidStatus):
            await client.socket(session=client.cookie, Cookie="").__aenter__()
        async with client.socket(session=client.cookie) as socket:
            assert (await event(socket))["job_id"] == job_id
            metrics = process.metrics()
            assert "unirig_websocket_clients 1.0" in metrics
            assert process.stop() == 0
            with pytest.raises(ConnectionClosed):
                await event(socket)
            assert socket.close_code == 1001
    assert 'route="/api/jobs/skeleton",status="200"} 1.0' in metrics
    assert f"unirig_upload_bytes_total {float(len(OBJ))}" in metrics
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert client.cookie.partition(".")[2] not in text
    assert client.token not in text
    answered = [line for line in lines if line["event"] == "request"]
    created = next(line for line in answered if line["route"] == "/api/jobs/skeleton")
    assert created["session_id"] == client.session_id
    assert created["status"] == 200
    assert created["request_id"]
    assert created["seconds"] >= 0
    assert not [line for line in lines if line["level"] == "error"]
