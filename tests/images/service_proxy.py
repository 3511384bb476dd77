"""Does in a container of its own what a Service with an address of its own does in a cluster.

    python3 service_proxy.py 80=gateway-0:8000,gateway-1:8000 9090=gateway-0:9090

Connections to each port go to its targets in turn. Standard library only.
"""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Iterator

_CHUNK_BYTES = 64 * 1024


async def main(routes: list[str]) -> None:
    """Serves until it is killed."""
    servers = [await _serve(*route.split("=")) for route in routes]
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _serve(port: str, targets: str) -> asyncio.Server:
    turns = itertools.cycle(targets.split(","))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await _connect(reader, writer, turns)
        writer.close()

    return await asyncio.start_server(connected, port=int(port))


async def _connect(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, turns: Iterator[str]
) -> None:
    host, _, port = next(turns).partition(":")
    pod_reader, pod_writer = await asyncio.open_connection(host, int(port))
    try:
        await asyncio.gather(_pass_on(reader, pod_writer), _pass_on(pod_reader, writer))
    finally:
        pod_writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
