"""What `helm test` runs in the gateway's image: rigs the example model through the public API.

Standard library only. Environment: GATEWAY_URL, MODEL, TIMEOUT_SECONDS.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

URL = os.environ["GATEWAY_URL"]
DEADLINE = time.monotonic() + float(os.environ["TIMEOUT_SECONDS"])
_http = urllib.request.build_opener(
    # In the cluster, whatever proxy the environment names.
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPCookieProcessor(CookieJar()),
)
_headers = {}


def main() -> None:
    """Uploads, rigs, downloads; exits 1 with the reason where a step fails."""
    wait_until_healthy()
    _headers["X-CSRF-Token"] = ask("/api/csrf-token")["csrf_token"]
    model = upload(Path(os.environ["MODEL"]))
    skeleton = run("skeleton", {"input_file": model})
    skinning = run("skinning", {"input_file": skeleton})
    rigged = run(
        "merge", {"skeleton_file": skeleton, "skinning_file": skinning, "output_format": "glb"}
    )
    content = fetch(rigged)
    if content[:4] != b"glTF":
        sys.exit(f"{rigged} is no GLB: it begins with {content[:16]!r}")
    print(f"rigged: {rigged}, {len(content)} bytes")


def wait_until_healthy() -> None:
    """Until the whole service works, as after an install pods may still be starting."""
    while True:
        try:
            ask("/api/health")
            return
        except (urllib.error.URLError, OSError) as error:
            print(f"waiting: {error}", flush=True)
            pause()


def upload(file: Path) -> str:
    """The path of the uploaded file at the service."""
    edge = "a-line-that-no-model-holds"
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + file.read_bytes() + f"\r\n--{edge}--\r\n".encode()
    answer = ask("/api/upload", body, f"multipart/form-data; boundary={edge}")
    return str(answer["path"])


def run(kind: str, request: dict[str, str]) -> str:
    """Runs one job to its end; the path of its result."""
    job = ask(f"/api/jobs/{kind}", json.dumps(request).encode(), "application/json")
    while job["status"] in ("pending", "running"):
        pause()
        job = ask(f"/api/jobs/{job['job_id']}")
    print(f"{kind}: {job['status']}", flush=True)
    if job["status"] != "completed":
        sys.exit(f"{kind}: {job['error']}")
    return str(job["output_file"])


def ask(path: str, body: bytes | None = None, content_type: str | None = None) -> dict:
    """The JSON answer."""
    headers = {**_headers, **({"Content-Type": content_type} if content_type else {})}
    request = urllib.request.Request(URL + path, body, headers)  # noqa: S310 - the gateway
    with _http.open(request, timeout=60) as answer:
        return json.load(answer)


def fetch(path: str) -> bytes:
    """The file behind a path."""
    with _http.open(URL + path, timeout=60) as answer:
        return answer.read()


def pause() -> None:
    """A second, or the end."""
    if time.monotonic() > DEADLINE:
        sys.exit(f"not done after {os.environ['TIMEOUT_SECONDS']} s")
    time.sleep(1)


if __name__ == "__main__":
    try:
        main()
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.url}: {error.code} {error.read().decode(errors='replace')}")
