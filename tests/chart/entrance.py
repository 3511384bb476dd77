"""A proxy in front of a stack, with TLS, and the clients that come in through it."""

import contextlib
import ssl
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import trustme

from services.cli.servers import wait_for_port
from tests.e2e.conftest import Client

HOST = "localhost"
# Key and certificate of HOST, beside the proxy.
CERTIFICATE = "rig-tls.pem"


@dataclass(frozen=True)
class Entrance:
    """A proxy that runs."""

    port: int
    pid: int
    # Trusts the proxy's certificate.
    tls: ssl.SSLContext

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    def client(self, address: str = "127.0.0.1") -> Client:
        """A client with a session of its own, that comes from an address of this machine."""
        way = httpx.HTTPTransport(verify=self.tls, local_address=address)
        return Client(self.url, transport=way)

    def new_sessions(
        self, count: int, address: str, headers: Mapping[str, str] | None = None
    ) -> list[int]:
        """Asks for sessions from an address of this machine; the answers' statuses."""
        way = httpx.HTTPTransport(verify=self.tls, local_address=address)
        statuses = []
        with httpx.Client(base_url=self.url, transport=way, timeout=60) as client:
            for _ in range(count):
                statuses.append(client.get("/api/csrf-token", headers=headers).status_code)
                client.cookies.clear()
        return statuses


@contextlib.contextmanager
def opened(command: Iterable[str], files: Mapping[str, str], port: int) -> Iterator[Entrance]:
    """Runs a proxy while the context lasts, in a folder with these files and CERTIFICATE."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).write_text(text)
        tls = _certified(folder / CERTIFICATE)
        log = folder / "proxy.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(command), cwd=folder, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            assert wait_for_port(port, process), log.read_text()
            yield Entrance(port, process.pid, tls)
        finally:
            process.terminate()
            process.wait(10)


def _certified(file: Path) -> ssl.SSLContext:
    """Writes key and certificate; returns what trusts them."""
    authority = trustme.CA()
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(file))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
