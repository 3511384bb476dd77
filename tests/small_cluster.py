"""A cluster in small: the five services as pods with addresses of their own, NATS and Redis.

Loopback has many addresses, so that all pods of a service have the same port. A headless Service is
a name that leads to the pod that is ready, and gRPC looks it up as it would in a cluster; the
gateway's Service takes connections and passes each on to the pod that is ready, as kube-proxy does.
"""

import asyncio
import contextlib
import itertools
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from services.cli.servers import LocalServer, free_port, start_nats, start_redis
from services.cli.stack import SERVICES
from tests.rate_limits import ROOMY
from tests.service_process import HOST, ServiceProcess

VALUES = Path(__file__).parents[1] / "helm" / "unirig" / "values.yaml"
# Whose Deployments start the new pod before they end the old one, as in the chart; storage's volume
# is for one pod at a time.
ROLLED = ("gateway", "sessions", "jobs", "inference")
# Between a pod's leaving its Service and SIGTERM, as in the chart. Nobody calls the worker.
_PRE_STOP_SECONDS = {"gateway": 5.0, "sessions": 5.0, "jobs": 5.0, "storage": 5.0, "inference": 0}
_TTL_SECONDS = 5


class Pod(ServiceProcess):
    """A service's process with an address of its own."""

    @property
    def address(self) -> str:
        return self.environment["BIND_HOST"]

    def _url(self, path: str) -> str:
        return f"http://{self.address}:{self.metrics_port}{path}"


class _Names(asyncio.DatagramProtocol):
    """Answers DNS questions for IPv4 addresses; a name without any is unknown."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        end, labels = 12, []
        while length := data[end]:
            labels.append(data[end + 1 : end + 1 + length].decode())
            end += 1 + length
        question = data[12 : end + 5]
        found = self.addresses.get(".".join(labels), [])
        is_ipv4 = question[-4:] == b"\0\1\0\1"
        answers = [
            b"\xc0\x0c" + struct.pack("!HHIH4s", 1, 1, _TTL_SECONDS, 4, socket.inet_aton(address))
            for address in found
            if is_ipv4
        ]
        flags = 0x8180 if found else 0x8183
        head = data[:2] + struct.pack("!HHHHH", flags, 1, len(answers), 0, 0)
        self._transport.sendto(head + question + b"".join(answers), addr)


@dataclass
class Cluster:
    """What runs, by service; and the one way in."""

    folder: Path
    nats: LocalServer
    redis: LocalServer
    names: _Names
    settings: Mapping[str, Mapping[str, str]]
    # Of the gateway's Service.
    port: int = field(default_factory=free_port)
    running: dict[str, Pod] = field(default_factory=dict)
    _started: list[Pod] = field(default_factory=list)
    _addresses: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    # Tests that run beside each other have networks of their own.
    _network: str = field(
        default_factory=lambda: f"127.{secrets.randbelow(250) + 2}.{secrets.randbelow(256)}"
    )

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def roll(self, name: str) -> None:
        """Replaces the pod as a Deployment with maxSurge 1 and maxUnavailable 0 does."""
        old = self.running[name]
        await self.start(name)
        await self.stop(old)

    async def recreate(self, name: str) -> None:
        """Replaces the pod as a Deployment of type Recreate does: its volume is for one pod."""
        old = self.running[name]
        self.names.addresses[name] = []
        await self.stop(old)
        await self.start(name)

    async def start(self, name: str) -> None:
        """Starts a pod; it takes the place of the one before in its Service once it is ready."""
        address = f"{self._network}.{next(self._addresses)}"
        environment = {**self.settings[name], "BIND_HOST": address}
        pod = Pod(name, environment, self.folder / f"{name}.log")
        self._started.append(pod)
        await asyncio.to_thread(pod.start)
        self.running[name] = pod
        self.names.addresses[name] = [address]

    async def stop(self, pod: Pod) -> None:
        """Ends a pod that has left its Service; it must end by itself within its grace."""
        await asyncio.sleep(_PRE_STOP_SECONDS[pod.name])
        grace = float(pod.environment["SHUTDOWN_GRACE_SECONDS"])
        assert pod.process is not None
        pod.process.terminate()
        assert await asyncio.to_thread(pod.process.wait, grace + 10) == 0, pod.name

    def kill_all(self) -> None:
        for pod in self._started:
            if pod.process is not None:
                pod.kill()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from outside, to the gateway that is ready now and to its end."""
        gateway = self.running["gateway"]
        port = int(gateway.environment["HTTP_PORT"])
        there_reader, there_writer = await asyncio.open_connection(gateway.address, port)
        await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the reader's end, which then is the writer's."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def small_cluster(folder: Path) -> AsyncIterator[Cluster]:
    """All services, one pod each, with NATS and Redis; settings as in the chart's values."""
    nats = start_nats(folder / "nats", free_port())
    redis = start_redis(folder / "redis", free_port())
    dns_port = free_port()
    transport, names = await asyncio.get_running_loop().create_datagram_endpoint(
        _Names, local_addr=(HOST, dns_port)
    )
    grpc_port = str(free_port())
    values = yaml.safe_load(VALUES.read_text())
    wiring = {
        "NATS_URL": nats.url,
        "REDIS_URL": redis.url,
        "GRPC_PORT": grpc_port,
        "HTTP_PORT": str(free_port()),
        **{
            f"{name.upper()}_ADDRESS": f"dns://{HOST}:{dns_port}/{name}:{grpc_port}"
            for name in ("sessions", "jobs", "storage")
        },
        "STORAGE_FOLDER": str(folder / "storage"),
        "SCRATCH_FOLDER": str(folder / "scratch"),
        "SIGNING_KEYS": secrets.token_hex(32),
    }
    own = {"STEP_THREADS": "1", "DISK_WARNING_GB": "0", "DISK_CRITICAL_GB": "0", **ROOMY}
    settings = {
        name: {
            **values[name]["env"],
            "SHUTDOWN_GRACE_SECONDS": str(values[name]["shutdownGraceSeconds"]),
            **wiring,
            **own,
        }
        for name in SERVICES
    }
    running = Cluster(folder, nats, redis, names, settings)
    balancer = await asyncio.start_server(running.pass_on, HOST, running.port)
    try:
        for name in SERVICES:
            await running.start(name)
        yield running
    finally:
        balancer.close()
        running.kill_all()
        redis.stop()
        nats.stop()
        transport.close()
