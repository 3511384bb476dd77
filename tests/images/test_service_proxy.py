"""The stand-in for a Service with an address of its own, between real sockets."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import StreamRequestHandler, ThreadingTCPServer

from services.cli.servers import free_port, wait_for_port
from tests.images import service_proxy


@contextmanager
def echo(name: bytes) -> Iterator[int]:
    """A server that answers a whole request with its name and the request; its port."""

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(name + self.rfile.read())

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@contextmanager
def proxy(*targets: int) -> Iterator[int]:
    port = free_port()
    route = f"{port}={','.join(f'127.0.0.1:{target}' for target in targets)}"
    with subprocess.Popen([sys.executable, service_proxy.__file__, route]) as process:
        try:
            assert wait_for_port(port, process)
            yield port
        finally:
            process.terminate()


def ask(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read()


def test_connections_go_to_the_pods_in_turn() -> None:
    request = b"x" * 1_000_000
    with echo(b"a") as first, echo(b"b") as second, proxy(first, second) as port:
        answers = [ask(port, request) for _ in range(4)]
    assert sorted(answer[:1] for answer in answers) == [b"a", b"a", b"b", b"b"]
    assert all(answer[1:] == request for answer in answers)


def test_a_pod_that_is_gone_ends_the_connection() -> None:
    with proxy(free_port()) as port:
        assert ask(port, b"") == b""
