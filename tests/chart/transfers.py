"""Large files through a proxy: made while they are sent, watched on their way."""

import contextlib
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from services.cli.stack import Stack
from services.common.rpc import open_channel
from tests.bench.storage_memory import forget_peak
from tests.bench.upload_memory import memory
from tests.chart.entrance import Entrance
from tests.e2e.conftest import Client
from tests.e2e.test_operations import environment_of
from tests.storage_server import SERVICE
from tests.storage_server import Client as StorageClient

MIB = 2**20
LIMIT = 100 * MIB
_HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.obj"\r\n\r\n'
_MODEL = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
_TAIL = b"\r\n--b--\r\n"
CHUNK = 256 * 1024


def form(size: int, before_chunk: Callable[[int], None]) -> Iterator[bytes]:
    """A multipart body whose file is an OBJ of `size` bytes. before_chunk is told the chunk's
    number, from 0."""
    yield _HEAD + _MODEL
    for number, start in enumerate(range(len(_MODEL), size, CHUNK)):
        before_chunk(number)
        yield b"#" * min(size - start, CHUNK)
    yield _TAIL


def upload(
    client: Client,
    size: int,
    chunked: bool = False,
    before_chunk: Callable[[int], None] = lambda _: None,
) -> httpx.Response:
    """Sends a file of `size` bytes; a chunked body does not say how long it is."""
    headers = {**client.headers, "Content-Type": "multipart/form-data; boundary=b"}
    if not chunked:
        headers["Content-Length"] = str(len(_HEAD) + size + len(_TAIL))
    return client.http.post("/api/upload", content=form(size, before_chunk), headers=headers)


def bytes_in(folder: Path) -> int:
    """How much all files in the folder hold together."""
    return _size(folder.rglob("*"))


def bytes_set_aside(pid: int) -> int:
    """What a process keeps in files without a name, where nginx puts bodies while it waits."""
    return _size(
        file
        for file in Path(f"/proc/{pid}/fd").iterdir()
        if str(file.readlink())[-9:] == "(deleted)"
    )


def _size(files: Iterable[Path]) -> int:
    total = 0
    for file in files:
        # Others may remove it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            found = file.stat()
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def wait_for(measure: Callable[[], int], least: int, seconds: float = 20) -> int:
    """Measures until there is so much, or time is up; returns what there is then."""
    deadline = time.monotonic() + seconds
    while (found := measure()) < least and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@dataclass(frozen=True)
class Streamed:
    """An upload of LIMIT bytes. All but the answer in MiB."""

    answer: httpx.Response
    # What storage had when half was sent, and what the proxy had set aside then.
    arrived: float
    set_aside: float
    # The highest resident set over the one before.
    proxy_rise: float
    gateway_rise: float


def streamed(entrance: Entrance, stack: Stack, storage: Path) -> Streamed:
    """storage: the folder of the stack's files."""
    client = entrance.client()
    upload(client, MIB)
    before = bytes_in(storage)
    pids = (entrance.pid, stack.pid_of("gateway"))
    at_rest = [memory(pid, "VmRSS") for pid in pids]
    for pid in pids:
        forget_peak(pid)
    held = [0, 0]

    def look(chunk: int) -> None:
        if chunk != LIMIT // CHUNK // 2:
            return
        held[0] = wait_for(lambda: bytes_in(storage) - before, LIMIT // 4)
        held[1] = bytes_set_aside(entrance.pid)

    answer = upload(client, LIMIT, before_chunk=look)
    rises = [memory(pid, "VmHWM") - rest for pid, rest in zip(pids, at_rest, strict=True)]
    return Streamed(answer, held[0] / MIB, held[1] / MIB, *rises)


async def large_result(stack: Stack, client: Client) -> str:
    """Puts a result of LIMIT bytes into the client's session, and returns its path."""
    address = environment_of(stack, "gateway")["STORAGE_ADDRESS"]
    async with open_channel(address, SERVICE, []) as channel:
        storage = StorageClient(channel, client.session_id)
        pieces = (bytes(MIB) for _ in range(LIMIT // MIB))
        return (await storage.put("large.glb", pieces, job_id="0" * 32, stage="merge")).path
