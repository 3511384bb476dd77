"""Runs the chart's pods by podman, and rigs the example models through them.

    make smoke-images      or: python -m tests.images.smoke --engine unirig

A real helm renders the chart with its values for a laptop, and every pod runs with the settings,
mounts, arguments, limits and security context of its manifest; pods.py lists what of a manifest
is ignored. With the engine unirig there is no GPU, and the networks are tiny ones with random
weights, which an init container fetches from a stand-in of the hub. Exits 1, with the ends of the
logs, where anything is not as it should be.
"""

import argparse
import os
import re
import secrets
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml
from rich.console import Console

from services.cli.character import write_character
from services.cli.client import ClientError
from services.cli.rig import rig
from services.cli.servers import free_port
from tests import hub_server
from tests.chart.helm_program import CHART, install_helm
from tests.chart.manifest_checks import Manifests
from tests.images.contents import examined
from tests.images.node import Node, NodeError, running_node
from tests.images.pods import IGNORED_KINDS, Release, translated

REGISTRY = os.environ.get("REGISTRY", "localhost")
TAG = os.environ.get("TAG", "1.0.0")
SERVICES = ("storage", "sessions", "jobs", "inference", "gateway")
_HUB = "http://hub:8000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["geometric", "unirig"], default="geometric")
    engine = parser.parse_args().engine
    console = Console(highlight=False, soft_wrap=True)
    network = f"unirig-smoke-{secrets.token_hex(4)}"
    with (
        tempfile.TemporaryDirectory(prefix="unirig-smoke-") as name,
        running_node(network, image_of("gateway")) as node,
    ):
        folder = Path(name)
        hub = f"http://{node.subnet[3]}:8000" if engine == "unirig" else None
        manifests = rendered(folder, hub)
        release = translated(manifests, network, node.subnet, folder / "mounted")
        kinds = Counter(one["kind"] for one in manifests if one["kind"] in IGNORED_KINDS)
        ignored = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        console.print(f"{len(manifests)} manifests, of which are ignored: {ignored}")
        try:
            for service in [*SERVICES, *(["triton"] if hub else [])]:
                console.print(examined(service, image_of(service)))
            if hub:
                serve_hub(node, hub, folder / "hub")
            run_through(node, release, folder, console)
        except (NodeError, ClientError) as error:
            console.print(f"Error: {error}", style="red", markup=False)
            console.print(node.logs(release.pods), markup=False)
            sys.exit(1)


def image_of(name: str) -> str:
    return f"{REGISTRY}/unirig-{name}:{TAG}"


def rendered(folder: Path, hub: str | None) -> Manifests:
    """The chart's manifests, with the images that were built here.

    hub: where checkpoints come from, with the engine unirig; they are put into folder / "hub".
    """
    values: dict[str, Any] = {"image": {"registry": REGISTRY, "tag": TAG}}
    if hub:
        # Here, as it needs torch.
        from tests.tiny_unirig import tiny_settings, write_tiny_checkpoints

        settings = tiny_settings(write_tiny_checkpoints(folder / "hub"))
        # The chart's own.
        del settings["UNIRIG_MODEL_FOLDER"]
        values["engine"] = "unirig"
        values["triton"] = {"gpu": {"count": 0}, "models": {"endpoint": hub}, "env": settings}
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    return install_helm("4.1").template(CHART / "values-laptop.yaml", file)


def run_through(node: Node, release: Release, folder: Path, console: Console) -> None:
    """A life of the release: an install, models rigged, its end, and a second start."""
    address = f"127.0.0.1:{free_port()}"
    for proxy in release.proxies:
        node.serve(proxy, f"{address}:80" if proxy.service == "unirig-gateway" else None)
    node.provide([*release.pods, *release.tests])
    start(node, release, console)
    for pod in release.pods:
        if any(f"-{service}-" in pod.name for service in SERVICES):
            node.execute(pod, "python3", "-m", "services.common.healthcheck")
    for test in release.tests:
        console.print(f"helm test: {node.complete(test).splitlines()[-1]}")
    url = f"http://{address}"
    console.print(f"The page: {page_from_outside(url)} bytes at its first load")
    rig_from_outside(url, folder, console)
    earlier = run_one_job(url, folder / "character.glb")
    stop(node, release, console)
    # Checkpoints are on their volume now.
    node.end_own("hub")
    start(node, release, console)
    check_still_there(url, earlier)
    console.print("After a second start, on the same volumes: the earlier job and its result")
    stop(node, release, console)


def serve_hub(node: Node, url: str, files: Path) -> None:
    """A stand-in of the hub at url, with these files."""
    script, parts = Path(hub_server.__file__), urlsplit(url)
    node.run_own(
        *("hub", parts.hostname, "python3", f"/{script.name}"),
        *("/files", str(parts.hostname), str(parts.port)),
        options=[f"--volume={files}:/files:ro", f"--volume={script}:/{script.name}:ro"],
    )


def start(node: Node, release: Release, console: Console) -> None:
    begin = time.monotonic()
    node.start(release.pods)
    for pod in release.pods:
        node.wait_until_ready(pod)
    seconds = time.monotonic() - begin
    console.print(f"{len(release.pods)} pods are ready and confined, after {seconds:.0f} s")


def stop(node: Node, release: Release, console: Console) -> None:
    took = node.stop(release.pods)
    grace = {pod.name: pod.grace for pod in release.pods}
    told = ", ".join(f"{name} {took[name]:.1f} of {grace[name]} s" for name in took)
    console.print(f"On SIGTERM all ended with 0: {told}")


def page_from_outside(url: str) -> int:
    """Bytes of the page and of all that it loads first, compressed as a browser has them."""
    with httpx.Client(base_url=url, headers={"Accept-Encoding": "gzip"}) as http:
        page = http.get("/").raise_for_status()
        files = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
        if not any(file.startswith("/assets/") for file in files):
            raise NodeError("the page is not in the gateway's image")
        answers = [page, *(http.get(file).raise_for_status() for file in files)]
        return sum(answer.num_bytes_downloaded for answer in answers)


def rig_from_outside(url: str, folder: Path, console: Console) -> None:
    character = folder / "character.glb"
    write_character(character)
    results = [folder / "rigged.glb", folder / "rigged.fbx"]
    notes = rig(character, results, url, console)
    sizes = ", ".join(f"{path.name} {path.stat().st_size} bytes" for path in results)
    console.print(f"Rigged from outside: {sizes} {' '.join(notes)}")


@dataclass(frozen=True)
class Earlier:
    """A session that ran a job, and what it downloaded then."""

    cookies: httpx.Cookies
    job: str
    path: str
    content: bytes


def run_one_job(url: str, model: Path) -> Earlier:
    with httpx.Client(base_url=url, timeout=60) as http:
        http.headers["X-CSRF-Token"] = http.get("/api/csrf-token").json()["csrf_token"]
        upload = http.post("/api/upload", files={"file": (model.name, model.read_bytes())}).json()
        job = http.post("/api/jobs/skeleton", json={"input_file": upload["path"]}).json()
        while job["status"] in ("pending", "running"):
            time.sleep(1)
            job = http.get(f"/api/jobs/{job['job_id']}").json()
        if job["status"] != "completed":
            raise NodeError(f"a job of its own session: {job}")
        content = http.get(job["output_file"]).raise_for_status().content
        return Earlier(http.cookies, job["job_id"], job["output_file"], content)


def check_still_there(url: str, earlier: Earlier) -> None:
    with httpx.Client(base_url=url, timeout=60, cookies=earlier.cookies) as http:
        listed = http.get("/api/jobs").raise_for_status().json()["jobs"]
        if [(job["job_id"], job["status"]) for job in listed] != [(earlier.job, "completed")]:
            raise NodeError(f"the earlier session has other jobs: {listed}")
        if http.get(earlier.path).raise_for_status().content != earlier.content:
            raise NodeError(f"{earlier.path} is another file than before")


if __name__ == "__main__":
    main()
