"""A client of the public API: what `unirig rig` does, step by step, as any other client would."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

# Soon at first, then seldom: a session may ask 1000 times an hour.
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0
_PAUSE_GROWTH = 1.1
_CHUNK_BYTES = 256 * 1024
_ENDED = ("completed", "failed", "cancelled")

Report = Callable[[float, str], None]


class ClientError(Exception):
    """The service refused or a job failed; the text is for the user."""


class UniRigClient:
    """One session with the service. Use as a context manager."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(base_url=self._url, timeout=httpx.Timeout(60, connect=5))
        self._token = ""

    def __enter__(self) -> "UniRigClient":
        self._token = self._request("GET", "/api/csrf-token")["csrf_token"]
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def upload(self, file: Path, report: Report) -> str:
        """Uploads the file and returns its path at the service; report gets 0..1."""
        size = max(file.stat().st_size, 1)
        with file.open("rb") as stream:
            watched = _WatchedFile(stream, lambda sent: report(sent / size, "Uploading"))
            answer = self._request("POST", "/api/upload", files={"file": (file.name, watched)})
        return str(answer["path"])

    def run_job(self, kind: str, request: dict[str, str], report: Report) -> dict[str, Any]:
        """Creates a job, follows it to its end and returns it; report gets 0..1.

        Interrupted, it cancels the job before it passes the interrupt on.
        """
        job = self._request("POST", f"/api/jobs/{kind}", json=request)
        pause = _FIRST_PAUSE_SECONDS
        try:
            while job["status"] not in _ENDED:
                report(job["progress"] / 100, job.get("message") or "Waiting")
                time.sleep(pause)
                pause = min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE_SECONDS)
                job = self._request("GET", f"/api/jobs/{job['job_id']}")
        except KeyboardInterrupt:
            self._request("POST", f"/api/jobs/{job['job_id']}/cancel")
            raise
        if job["status"] != "completed":
            raise ClientError(job["error"] or f"The {kind} job was {job['status']}.")
        report(1.0, "Done")
        return job

    def download(self, path: str, out: Path) -> None:
        """Writes a result to out, whole or not at all."""
        part = out.with_name(out.name + ".part")
        with self._http.stream("GET", path) as response:
            if response.is_error:
                response.read()
                raise ClientError(_detail(response))
            with part.open("wb") as file:
                for chunk in response.iter_bytes(_CHUNK_BYTES):
                    file.write(chunk)
        part.replace(out)

    def _request(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        try:
            response = self._http.request(
                method, path, headers={"X-CSRF-Token": self._token}, **content
            )
        except httpx.TransportError as error:
            raise ClientError(
                f"No answer from {self._url} ({error}). Start the service with: make up"
            ) from error
        if response.is_error:
            raise ClientError(_detail(response))
        answer: dict[str, Any] = response.json()
        return answer


class _WatchedFile:
    """A binary file that says how much of it was read."""

    def __init__(self, stream: Any, on_read: Callable[[int], None]) -> None:
        self._stream = stream
        self._on_read = on_read

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        self._on_read(self._stream.tell())
        return data

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(_CHUNK_BYTES):
            yield chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"The service answered {response.status_code}."
