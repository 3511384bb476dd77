"""Measures each service's memory while 8 clients upload 50 MB each at once.

    make bench-upload        or: python -m tests.bench.upload_memory --clients 8 --megabytes 50

Memory is the peak resident set (VmHWM, reset before the uploads) over the resident set before.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from services.cli.servers import free_port
from services.cli.stack import SERVICES, Stack
from tests.rate_limits import ROOMY

_MIB = 2**20


def memory(pid: int, field: str) -> float:
    """A field of /proc/<pid>/status, VmRSS or VmHWM, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def body(megabytes: int) -> Iterator[bytes]:
    """The multipart body of an OBJ of that size, made as it is sent."""
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.obj"\r\n\r\n'
    yield b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    for _ in range(megabytes * 4):
        yield b"# filler\n" * (_MIB // 4 // 9)
    yield b"\r\n--b--\r\n"


def upload(url: str, megabytes: int) -> int:
    """Uploads in a session of its own; returns the bytes stored."""
    with httpx.Client(base_url=url, timeout=600) as client:
        token = client.get("/api/csrf-token").json()["csrf_token"]
        response = client.post(
            "/api/upload",
            content=body(megabytes),
            headers={
                "X-CSRF-Token": token,
                "Content-Type": "multipart/form-data; boundary=b",
            },
        )
        response.raise_for_status()
        return int(response.json()["size"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=50)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as data,
        Stack(Path(data), free_port(), settings=ROOMY) as stack,
    ):
        upload(stack.url, 1)
        before = {}
        for name in SERVICES:
            pid = stack.pid_of(name)
            before[name] = memory(pid, "VmRSS")
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        start = time.perf_counter()
        with ThreadPoolExecutor(arguments.clients) as pool:
            sizes = list(
                pool.map(lambda _: upload(stack.url, arguments.megabytes), range(arguments.clients))
            )
        seconds = time.perf_counter() - start
        print(
            f"{arguments.clients} uploads of {min(sizes) / _MIB:.1f} MiB at once: {seconds:.1f} s"
        )
        print(f"machine: {platform.machine()}, {platform.system()} {platform.release()}")
        print(f"{'service':<12}{'before MiB':>12}{'peak MiB':>12}{'rise MiB':>12}")
        for name in SERVICES:
            peak = memory(stack.pid_of(name), "VmHWM")
            rise = peak - before[name]
            print(f"{name:<12}{before[name]:>12.1f}{peak:>12.1f}{rise:>12.1f}")


if __name__ == "__main__":
    main()
