"""Measures the storage service's memory under 8 uploads and 8 downloads of 50 MiB at once.

    python -m tests.bench.storage_memory --clients 8 --megabytes 50

Memory is the peak resident set (VmHWM, reset before) over the resident set before.
"""

import argparse
import asyncio
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from unirig.v1 import storage_pb2

from tests.bench.upload_memory import memory
from tests.storage_server import Client, S3Server, StorageServer, channel_to, session

NO_NATS = {"NATS_URL": "nats://127.0.0.1:1"}


def chunks(megabytes: int) -> Iterator[bytes]:
    chunk = bytes(range(256)) * 1024
    for _ in range(megabytes * 4):
        yield chunk


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def download(client: Client, path: str) -> int:
    """Reads the file and returns its bytes, held one chunk at a time."""
    request = storage_pb2.GetFileRequest(session_id=client.session_id, path=path)
    return sum([len(response.chunk) async for response in client.stub.GetFile(request)])


async def measure(name: str, server: StorageServer, clients: int, megabytes: int) -> None:
    async with channel_to(server) as channel:
        users = [Client(channel, session()) for _ in range(clients)]
        # What the first transfer loads is not what transfers cost.
        first = await users[0].put("first.obj", chunks(1))
        await download(users[0], first.path)
        files: list[storage_pb2.FileInfo] = []
        for direction in ("upload", "download"):
            before = memory(server.pid, "VmRSS")
            forget_peak(server.pid)
            start = time.perf_counter()
            if direction == "upload":
                puts = (user.put("model.obj", chunks(megabytes)) for user in users)
                files = await asyncio.gather(*puts)
            else:
                gets = (download(user, file.path) for user, file in zip(users, files, strict=True))
                assert await asyncio.gather(*gets) == [file.size for file in files]
            seconds = time.perf_counter() - start
            rise = memory(server.pid, "VmHWM") - before
            rate = clients * megabytes / seconds
            print(f"{name:<12}{direction:<10}{before:>12.1f}{rise:>12.1f}{rate:>12.0f}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=50)
    arguments = parser.parse_args()
    print(f"{arguments.clients} files of {arguments.megabytes} MiB at once")
    print(f"machine: {platform.machine()}, {platform.system()} {platform.release()}")
    print(f"{'back end':<12}{'':<10}{'before MiB':>12}{'rise MiB':>12}{'MiB/s':>12}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        s3 = S3Server(place / "objects").start()
        for name, settings in (
            ("filesystem", {"STORAGE_FOLDER": str(place / "volume")}),
            ("s3", s3.settings),
        ):
            server = StorageServer({**settings, **NO_NATS}, place / f"{name}.log").start()
            await measure(name, server, arguments.clients, arguments.megabytes)
            server.stop()
        s3.kill()


if __name__ == "__main__":
    asyncio.run(main())
