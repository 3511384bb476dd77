"""The storage service when disks fill up, servers die and replicas race."""

import asyncio
import os
import resource
import subprocess
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import grpc
import pytest
import requests
from aiohttp import web
from unirig.v1 import messages_pb2, storage_pb2

from services.cli.servers import free_port, start_nats, wait_for_port
from services.common.broker import connect, ensure_streams
from services.common.errors import ErrorCode, api_error_of
from services.common.subjects import SESSION_ENDED
from tests.storage_server import (
    COMMIT,
    MIB,
    Client,
    S3Server,
    StorageServer,
    channel_to,
    session,
)

NO_NATS = "nats://127.0.0.1:1"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return tmp_path / "volume"


@pytest.fixture
def server(volume: Path, tmp_path: Path) -> Iterator[StorageServer]:
    settings = {
        "STORAGE_FOLDER": os.fspath(volume),
        "NATS_URL": NO_NATS,
        "DISK_WARNING_GB": "0",
        "DISK_CRITICAL_GB": "0",
    }
    server = StorageServer(settings, tmp_path / "log")
    yield server
    print(server.log.read_text())
    assert server.stop() == 0


@pytest.fixture
def small_volume(volume: Path) -> Iterator[None]:
    """12 MiB where the storage folder is."""
    volume.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", os.fspath(volume)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small volume needs root; the file size limit is tested instead")
    yield
    subprocess.run(["umount", os.fspath(volume)], check=True)


def fill(volume: Path) -> None:
    """Takes every block that is left."""
    with (volume / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


@pytest.fixture
def moto(tmp_path: Path) -> Iterator[S3Server]:
    """An S3 server that honours If-None-Match as AWS does; it checks no signatures."""
    server = S3Server(tmp_path / "objects")
    program = Path(sysconfig.get_path("scripts")) / "moto_server"
    with (tmp_path / "moto.log").open("wb") as log:
        server.process = subprocess.Popen(
            [program, "-p", str(server.port)], stdout=log, stderr=subprocess.STDOUT
        )
    assert wait_for_port(server.port, server.process)
    requests.put(f"{server.settings['S3_ENDPOINT']}/rigs", timeout=30).raise_for_status()
    yield server
    server.kill()


@asynccontextmanager
async def client_of(server: StorageServer, session_id: str = "") -> AsyncIterator[Client]:
    async with channel_to(server) as channel:
        yield Client(channel, session_id or session())


async def refusal(call: Awaitable[object]) -> ErrorCode:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return api_error_of(failure.value).code


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def drafts_in(volume: Path) -> list[Path]:
    return list((volume / "incoming").iterdir())


async def test_a_kill_in_mid_upload_leaves_no_partial_file(
    server: StorageServer, volume: Path
) -> None:
    async with client_of(server.start()) as client:
        kept = await client.put("model.obj", b"accepted")
        call = client.stub.PutFile()
        await call.write(client.header("model.obj"))
        for _ in range(4):
            await call.write(storage_pb2.PutFileRequest(chunk=bytes(MIB)))

        async def half_is_written() -> bool:
            return any(draft.stat().st_size for draft in drafts_in(volume))

        await eventually(half_is_written)
        server.kill()
        assert await refusal(call) is ErrorCode.SERVICE_UNAVAILABLE
    assert len(drafts_in(volume)) == 1
    async with client_of(server.start(), client.session_id) as client:
        assert await client.usage() == (1, 0, len(b"accepted"))
        assert await client.get(kept.path) == (kept, b"accepted")

        async def draft_is_swept() -> bool:
            return not drafts_in(volume)

        await eventually(draft_is_swept)


async def test_a_client_that_is_killed_in_mid_upload_leaves_nothing(
    server: StorageServer, volume: Path
) -> None:
    server.start()
    session_id = session()
    program = (
        "import asyncio, os, sys\n"
        "from tests.storage_server import *\n"
        "async def main(address, session_id):\n"
        "    async with open_channel(address, SERVICE, []) as channel:\n"
        "        client = Client(channel, session_id)\n"
        "        call = client.stub.PutFile()\n"
        "        await call.write(client.header('model.obj'))\n"
        "        for _ in range(3):\n"
        "            await call.write(storage_pb2.PutFileRequest(chunk=bytes(MIB)))\n"
        "        os.kill(os.getpid(), 9)\n"
        "asyncio.run(main(*sys.argv[1:]))\n"
    )
    for _ in range(3):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, server.address, session_id
        )
        assert await child.wait() == -9

    async def nothing_is_left() -> bool:
        return not drafts_in(volume)

    await eventually(nothing_is_left)
    async with client_of(server, session_id) as client:
        assert await client.usage() == (0, 0, 0)


async def assert_full_then_usable_again(server: StorageServer, volume: Path) -> None:
    """On a place with room for 8 MiB and not for 16."""
    async with client_of(server) as client:
        kept = await client.put("kept.obj", bytes(MIB))
        for lineage in ({}, {"job_id": "job-1"}):
            code = await refusal(client.put("model.obj", bytes(16 * MIB), **lineage))
            assert code is ErrorCode.STORAGE_FULL
            assert drafts_in(volume) == []
        assert await client.usage() == (1, 0, MIB)
        assert (await client.get(kept.path))[1] == bytes(MIB)
        assert server.probe("/readyz") == 200
        assert (await client.put("model.obj", bytes(MIB))).size == MIB
        assert await client.delete_session() == (2, 2 * MIB)


async def test_a_full_disk_refuses_and_keeps_nothing(
    small_volume: None, server: StorageServer, volume: Path
) -> None:
    await assert_full_then_usable_again(server.start(), volume)
    async with client_of(server) as client:
        await client.put("model.obj", bytes(MIB))
        fill(volume)
        assert await refusal(client.put("x.obj", b"x")) is ErrorCode.STORAGE_FULL
        # Not a block is left, and the session can still be deleted.
        assert await client.delete_session() == (1, MIB)


async def test_a_file_size_limit_of_the_process_is_a_full_storage(
    server: StorageServer, volume: Path
) -> None:
    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10 * MIB, 10 * MIB))

    await assert_full_then_usable_again(server.start(limit_files), volume)


async def test_a_lost_volume_makes_the_service_unready_until_it_is_back(
    server: StorageServer, volume: Path
) -> None:
    server.start()
    os.rename(volume, volume.with_name("elsewhere"))

    async def is_unready() -> bool:
        return server.probe("/readyz") == 503

    await eventually(is_unready)
    assert server.probe("/healthz") == 200
    os.rename(volume.with_name("elsewhere"), volume)

    async def is_ready() -> bool:
        return server.probe("/readyz") == 200

    await eventually(is_ready)


async def test_replicas_on_one_volume_agree_on_names(
    server: StorageServer, tmp_path: Path, volume: Path
) -> None:
    replica = StorageServer(server.start().environment, tmp_path / "replica.log").start()
    async with client_of(server) as first, client_of(replica, first.session_id) as second:
        contents = [str(number).encode() for number in range(16)]
        files = await asyncio.gather(
            *(
                (first, second)[number % 2].put("model.obj", content)
                for number, content in enumerate(contents)
            )
        )
        assert len({file.path for file in files}) == len(files)
        assert [(await first.get(file.path))[1] for file in files] == contents
    assert replica.stop() == 0


async def test_an_object_store_that_dies_is_told_of_and_found_again(
    tmp_path: Path, nats_url: str
) -> None:
    s3 = S3Server(tmp_path / "objects").start()
    settings = {**s3.settings, "NATS_URL": nats_url}
    server = StorageServer(settings, tmp_path / "log").start()
    async with client_of(server) as client:
        kept = await client.put("model.obj", b"kept")
        await client.put("model.obj", bytes(6 * MIB))
        call = client.stub.PutFile()
        await call.write(client.header("model.obj"))
        for _ in range(6):
            await call.write(storage_pb2.PutFileRequest(chunk=bytes(MIB)))
        s3.kill()
        await call.write(COMMIT)
        await call.done_writing()
        assert await refusal(call) is ErrorCode.SERVICE_UNAVAILABLE
        assert await refusal(client.stat(kept.path)) is ErrorCode.SERVICE_UNAVAILABLE

        # An end that comes now is not lost.
        connection = await connect(nats_url, "test")
        jetstream = await ensure_streams(connection, 1)
        ended = messages_pb2.SessionEnded(session_id=client.session_id)
        await jetstream.publish(SESSION_ENDED, ended.SerializeToString())
        await connection.close()

        async def is_unready() -> bool:
            return server.probe("/readyz") == 503

        await eventually(is_unready)
        s3.start()

        async def is_deleted() -> bool:
            try:
                return await client.usage() == (0, 0, 0)
            except grpc.aio.AioRpcError:
                return False

        await eventually(is_deleted, 60)

        async def is_ready() -> bool:
            return server.probe("/readyz") == 200

        await eventually(is_ready)
    assert server.stop() == 0
    s3.kill()


async def test_events_that_come_while_the_service_is_down_are_applied_later(
    server: StorageServer, tmp_path: Path
) -> None:
    port = free_port()
    server.environment["NATS_URL"] = f"nats://127.0.0.1:{port}"
    # Bytes are served without NATS.
    async with client_of(server.start()) as client:
        await client.put("model.obj", b"1234")
    server.kill()
    nats = start_nats(tmp_path / "nats", port)
    connection = await connect(nats.url, "test")
    ended = messages_pb2.SessionEnded(session_id=client.session_id)
    jetstream = await ensure_streams(connection, 1)
    await jetstream.publish(SESSION_ENDED, ended.SerializeToString())
    await connection.close()
    async with client_of(server.start(), client.session_id) as client:

        async def is_deleted() -> bool:
            return await client.usage() == (0, 0, 0)

        await eventually(is_deleted)
        # NATS goes and comes back: events still arrive.
        second = client.of_session(session())
        await second.put("model.obj", b"1234")
        nats.stop()
        nats = start_nats(tmp_path / "nats", port)
        connection = await connect(nats.url, "test")
        ended = messages_pb2.SessionEnded(session_id=second.session_id)
        await connection.jetstream().publish(SESSION_ENDED, ended.SerializeToString())
        await connection.close()

        async def second_is_deleted() -> bool:
            return await second.usage() == (0, 0, 0)

        await eventually(second_is_deleted, 60)
    assert server.stop() == 0
    nats.stop()


async def test_replicas_on_a_conditional_object_store_agree_on_names(
    moto: S3Server, tmp_path: Path
) -> None:
    settings = {**moto.settings, "NATS_URL": NO_NATS}
    replicas = [StorageServer(settings, tmp_path / f"{name}.log").start() for name in "ab"]
    async with client_of(replicas[0]) as first, client_of(replicas[1], first.session_id) as second:
        contents = [str(number).encode() for number in range(12)]
        files = await asyncio.gather(
            *(
                (first, second)[number % 2].put("model.obj", content)
                for number, content in enumerate(contents)
            )
        )
        assert len({file.path for file in files}) == len(files)
        assert [(await first.get(file.path))[1] for file in files] == contents
        await first.put("model_skeleton.obj", b"first attempt", job_id="job-1")
        again = await second.put("model_skeleton.obj", bytes(6 * MIB), job_id="job-1")
        assert await first.get(again.path) == (again, bytes(6 * MIB))
    assert [replica.stop() for replica in replicas] == [0, 0]


async def test_an_object_store_without_conditions_works_too(tmp_path: Path) -> None:
    """Swift answers 501 to If-None-Match: here a proxy before the S3 server does."""
    s3 = S3Server(tmp_path / "objects").start()
    refused = 0

    async def forward(request: web.Request) -> web.Response:
        nonlocal refused
        if "If-None-Match" in request.headers or "If-Match" in request.headers:
            refused += 1
            error = "<Error><Code>NotImplemented</Code><Message>no</Message></Error>"
            return web.Response(status=501, text=error, content_type="application/xml")
        async with (
            aiohttp.ClientSession(auto_decompress=False) as http,
            http.request(
                request.method,
                f"http://127.0.0.1:{s3.port}{request.raw_path}",
                headers=request.headers,
                data=await request.read(),
            ) as answer,
        ):
            headers = {
                name: value
                for name, value in answer.headers.items()
                if name not in ("Transfer-Encoding", "Content-Length")
            }
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)

    proxy = web.Application(client_max_size=64 * MIB)
    proxy.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(proxy)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    settings = {**s3.settings, "S3_ENDPOINT": f"http://127.0.0.1:{port}", "NATS_URL": NO_NATS}
    server = await asyncio.to_thread(StorageServer(settings, tmp_path / "log").start)
    async with client_of(server) as client:
        files = await asyncio.gather(*(client.put("model.obj", b"x") for _ in range(4)))
        assert sorted(file.filename for file in files) == [
            *("model-2.obj", "model-3.obj", "model-4.obj", "model.obj"),
        ]
        assert refused >= 4
    assert await asyncio.to_thread(server.stop) == 0
    await runner.cleanup()
    s3.kill()
