"""Downloads one large file over HTTP: resumed where it stopped, bounded, and checked at the end.

By httpx, not huggingface_hub: that one (2.4) keeps no partial file between two runs, compares
sizes but no checksums, and only warns of a full disk.
"""

import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx

from services.inference.unirig_network.checkpoint_errors import CheckpointError
from services.inference.unirig_network.download_progress import DownloadProgress

# After a fault; when all are used without a single new byte, the download ends.
_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_MAX_REDIRECTS = 10


@dataclass(frozen=True)
class RemoteFile:
    """What a server says of a file.

    url: where it is asked for; the server may redirect from there.
    size: bytes.
    sha256: hexadecimal, where the server states it, as the hub does for large files.
    version: a text that changes when the file does, as far as the server tells.
    """

    url: str
    size: int
    sha256: str | None
    version: str


def open_client(token: str | None) -> httpx.Client:
    """A client that sends the hub's token, if there is one, and never on to another host.

    Proxies and certificates come from the environment. Raises CheckpointError where the token
    cannot be one; no message holds it.
    """
    headers = {"Accept-Encoding": "identity"}
    if token:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise CheckpointError("the hub's token (HF_TOKEN) has characters that no token has")
        headers["Authorization"] = f"Bearer {token}"
    return httpx.Client(headers=headers, timeout=_TIMEOUT, follow_redirects=True)


def find_file(client: httpx.Client, url: str) -> RemoteFile | None:
    """The file at url, or None where the server has none.

    Raises CheckpointError where the server cannot be reached, refuses, or gives no size.
    """
    try:
        response = _head(client, url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CheckpointError(f"cannot reach {shown(url)}: {_reason(error)}") from error
    if response.status_code == HTTPStatus.NOT_FOUND:
        return None
    _check_status(response, url)
    headers = response.headers
    size = headers.get("X-Linked-Size") or headers.get("Content-Length", "")
    if not size.isdecimal():
        raise CheckpointError(f"{shown(url)}: the server does not say how large the file is")
    tag = (headers.get("X-Linked-Etag") or headers.get("ETag", "")).removeprefix("W/").strip('"')
    version = tag or headers.get("Last-Modified", "")
    return RemoteFile(url, int(size), tag if is_sha256(tag) else None, version)


def download(
    client: httpx.Client, remote: RemoteFile, part: Path, name: str, progress: DownloadProgress
) -> None:
    """Completes part, which may hold the first bytes of the file already.

    Raises CheckpointError where the server refuses or faults outlast patience; part then stays,
    to be completed by another call. Raises OSError where part cannot be written.
    """
    part.touch()
    pauses = iter(_PAUSES_SECONDS)
    while (have := part.stat().st_size) < remote.size:
        fault = _receive(client, remote, part, have, name, progress)
        if fault is None:
            return
        if part.stat().st_size > have:
            pauses = iter(_PAUSES_SECONDS)
        pause = next(pauses, None)
        if pause is None:
            raise CheckpointError(
                f"{shown(remote.url)}: {fault}. What has come is kept: run it again to go on."
            )
        progress.note(f"{name}: {fault}; trying again")
        time.sleep(pause)


def is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def shown(url: str) -> str:
    """The URL without what may be secret in it."""
    try:
        return str(httpx.URL(url).copy_with(username=None, password=None, query=None))
    except httpx.InvalidURL:
        return "the URL"


def _head(client: httpx.Client, url: str) -> httpx.Response:
    """The answer that describes the file; the hub's does so before it redirects to the bytes."""
    request = client.build_request("HEAD", url)
    for _ in range(_MAX_REDIRECTS):
        response = client.send(request, follow_redirects=False)
        if response.next_request is None or "X-Linked-Size" in response.headers:
            return response
        # It has no token any more where it leads to another host.
        request = response.next_request
    raise httpx.TooManyRedirects("too many redirects", request=request)


def _receive(
    client: httpx.Client,
    remote: RemoteFile,
    part: Path,
    have: int,
    name: str,
    progress: DownloadProgress,
) -> str | None:
    """Appends what comes until the file is complete; else the fault, where another try may help."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with client.stream("GET", remote.url, headers=headers) as response:
            if _is_transient(response):
                return f"the server answers {response.status_code}"
            _check_status(response, remote.url)
            done = _first_byte(response, have, remote.url)
            with part.open("r+b") as file:
                file.truncate(done)
                file.seek(done)
                for chunk in response.iter_raw():
                    done += len(chunk)
                    if done > remote.size:
                        raise CheckpointError(f"{shown(remote.url)}: more comes than was announced")
                    file.write(chunk)
                    progress.advance(name, done, remote.size)
    except httpx.TransportError as error:
        return _reason(error)
    except httpx.HTTPError as error:
        raise CheckpointError(f"{shown(remote.url)}: {_reason(error)}") from error
    return None if done == remote.size else "the connection ended early"


def _first_byte(response: httpx.Response, have: int, url: str) -> int:
    """Which byte of the file the answer starts with: 0 where the server knows no ranges."""
    if response.status_code != HTTPStatus.PARTIAL_CONTENT:
        return 0
    if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        raise CheckpointError(f"{shown(url)}: the server answers another range than was asked for")
    return have


def _is_transient(response: httpx.Response) -> bool:
    busy = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
    return response.is_server_error or response.status_code in busy


def _check_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise CheckpointError(
            f"{shown(url)}: the server refuses ({status}): check the repository's name, and"
            " HF_TOKEN if it is private"
        )
    if response.is_error:
        raise CheckpointError(f"{shown(url)}: the server answers {status}")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
