"""A real HTTP server with the few routes of the Hugging Face hub that a download uses.

`/{repository}/resolve/{revision}/{file}` describes a file in the answer's head and redirects to
where its bytes are: on another host (`localhost` for `127.0.0.1`), as the hub's own do.

    python3 tests/hub_server.py FOLDER HOST PORT      serves a folder's files
"""

import contextlib
import hashlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_BYTES = "/bytes"


@dataclass(frozen=True)
class Request:
    """method, path and the two heads that matter; empty where there was none."""

    method: str
    path: str
    range: str
    authorization: str


@dataclass
class Hub:
    """What the server has and how it misbehaves; to be changed while it runs.

    files: by path below the repository's revision.
    cuts: how many bytes each of the next downloads gets before its connection is cut.
    stalls: after how many bytes each of the next downloads stands still until the client leaves.
    busy: how many of the next downloads are answered 503.
    sha256, size: what is announced instead of the truth, if anything.
    """

    url: str
    files: dict[str, bytes]
    repository: str = "VAST-AI/UniRig"
    revision: str = "main"
    cuts: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    busy: int = 0
    knows_ranges: bool = True
    tells_sha256: bool = True
    sha256: str | None = None
    size: int | None = None
    requests: list[Request] = field(default_factory=list)

    @property
    def downloads(self) -> list[Request]:
        """The requests for bytes so far."""
        return [request for request in self.requests if request.path.startswith(_BYTES)]


@contextlib.contextmanager
def hub_server(files: dict[str, bytes], host: str = "127.0.0.1", port: int = 0) -> Iterator[Hub]:
    """Serves files until the block ends. port 0: any that is free."""
    server = ThreadingHTTPServer((host, port), _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://{host}:{server.server_port}", files)
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    @property
    def hub(self) -> Hub:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        return hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass

    def _answer(self) -> None:
        heads = (self.headers.get("Range", ""), self.headers.get("Authorization", ""))
        self.hub.requests.append(Request(self.command, self.path, *heads))
        if self.path.startswith(_BYTES):
            self._send_bytes(self.path.removeprefix(f"{_BYTES}/"))
        else:
            self._describe()

    def _describe(self) -> None:
        hub = self.hub
        folder = f"/{hub.repository}/resolve/{hub.revision}/"
        content = hub.files.get(self.path.removeprefix(folder))
        if content is None or not self.path.startswith(folder):
            self._end_empty(404)
            return
        sha256 = hub.sha256 or hashlib.sha256(content).hexdigest()
        self.send_response(302)
        self.send_header("X-Linked-Size", str(len(content) if hub.size is None else hub.size))
        if hub.tells_sha256:
            self.send_header("X-Linked-Etag", f'"{sha256}"')
        place = hub.url.replace("127.0.0.1", "localhost") + _BYTES
        self.send_header("Location", f"{place}/{self.path.removeprefix(folder)}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_bytes(self, name: str) -> None:
        hub = self.hub
        content = hub.files.get(name)
        if content is None:
            self._end_empty(404)
            return
        if hub.busy > 0:
            hub.busy -= 1
            self._end_empty(503)
            return
        wanted = self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if not hub.knows_ranges:
            start = 0
        self.send_response(206 if start else 200)
        if start:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        if hub.cuts:
            self.wfile.write(content[start : start + hub.cuts.pop(0)])
            self.close_connection = True
            return
        if hub.stalls:
            self.wfile.write(content[start : start + hub.stalls.pop(0)])
            with contextlib.suppress(ConnectionError):
                self.connection.recv(1)
            self.close_connection = True
            return
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content[start:])

    def _end_empty(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    folder, own_host, own_port = sys.argv[1:]
    content = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    with hub_server(content, own_host, int(own_port)):
        threading.Event().wait()
