"""gRPC shows a cancelled stream's end like the client's half-close: only the commit tells."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from unirig.v1 import storage_pb2, storage_pb2_grpc

from services.common.paths import StoredPath
from services.common.rpc import RpcServer, open_channel
from services.storage.disk_space import DiskSpace
from services.storage.records import Record
from services.storage.service import StorageService
from services.storage.settings import GIB, StorageSettings
from tests.storage_server import SERVICE, Client, session


class Instant:
    """A back end that is faster than any disk: what reaches publish is published at once."""

    def __init__(self) -> None:
        self.published = 0

    async def space(self) -> DiskSpace:
        return DiskSpace(total=100 * GIB, used=0, free=100 * GIB)

    @asynccontextmanager
    async def receive(self, session_id: str) -> AsyncIterator["Instant"]:
        yield self

    async def write(self, chunk: bytes) -> None:
        await asyncio.to_thread(time.sleep, 0.0005)

    async def publish(self, wanted: StoredPath, record: Record) -> StoredPath:
        self.published += 1
        return wanted


async def test_no_cancelled_upload_is_taken_for_a_finished_one() -> None:
    back_end: Any = Instant()
    server = RpcServer("127.0.0.1", 0)
    storage_pb2_grpc.add_StorageServiceServicer_to_server(
        StorageService(back_end, StorageSettings()), server.server
    )
    port = await server.start([SERVICE])
    async with open_channel(f"127.0.0.1:{port}", SERVICE, []) as channel:
        client = Client(channel, session())
        await client.put("model.obj", b"finished")
        for number in range(300):
            call = client.stub.PutFile()
            await call.write(client.header("model.obj"))
            for _ in range(number % 4):
                await call.write(storage_pb2.PutFileRequest(chunk=bytes(300_000)))
            if number % 3 == 0:
                await asyncio.sleep(0.003)
            call.cancel()
        await asyncio.sleep(0.5)
    await server.stop(5)
    assert back_end.published == 1
