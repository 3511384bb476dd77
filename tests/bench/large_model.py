"""Measures what a model of five million triangles, the most that is taken, costs to rig.

    make bench-large        or: python -m tests.bench.large_model --triangles 5000000

The model is made here: a closed surface with five lobes, as a GLB below the upload's limit. Memory
is each step's peak resident set (VmHWM), seen five times a second.
"""

import argparse
import platform
import tempfile
import time
from pathlib import Path
from threading import Event, Thread

import httpx
import numpy as np

from services.cli.servers import free_port
from services.cli.stack import Stack
from services.inference.formats.gltf import Document, add_accessor, write_glb_document


def write_star(path: Path, triangles: int) -> None:
    """A closed surface around five arms that lie in the x-y plane, 2 m across."""
    across = int(np.sqrt(triangles))
    around = triangles // (2 * across)
    polar = np.linspace(0.02, np.pi - 0.02, across + 1)[:, None]
    turn = np.linspace(0, 2 * np.pi, around, endpoint=False)[None, :]
    reach = np.sin(polar) * (0.25 + 0.75 * np.sin(polar) ** 4 * np.cos(2.5 * turn) ** 8)
    depth = np.broadcast_to(0.25 * np.cos(polar), reach.shape)
    vertices = np.stack([reach * np.cos(turn), reach * np.sin(turn), depth], axis=2)
    row, column = np.mgrid[:across, :around]
    a, b, c, d = (
        ((row + down) * around + (column + right) % around).ravel().astype(np.uint32)
        for down in (0, 1)
        for right in (0, 1)
    )
    faces = np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])
    document = Document({"asset": {"version": "2.0"}}, [])
    primitive = {
        "attributes": {
            "POSITION": add_accessor(
                document, vertices.reshape(-1, 3).astype(np.float32), bounds=True
            )
        },
        "indices": add_accessor(document, faces.ravel()),
    }
    document.json |= {"meshes": [{"primitives": [primitive]}], "nodes": [{"mesh": 0}]}
    document.json["scenes"] = [{"nodes": [0]}]
    write_glb_document(path, document)
    print(f"{len(faces):,} triangles, {path.stat().st_size / 2**20:.0f} MiB")


class StepMemory:
    """Watches the steps that a worker starts: the peak memory of each, MiB, by its name."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._stopped = Event()
        self._thread = Thread(target=self._watch)
        self.peaks: dict[str, float] = {}

    def __enter__(self) -> "StepMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.2):
            children = Path(f"/proc/{self._worker}/task/{self._worker}/children").read_text()
            for child in children.split():
                try:
                    self._note(Path("/proc") / child)
                except (OSError, ValueError):
                    continue  # it has only just begun, or ended

    def _note(self, process: Path) -> None:
        words = process.joinpath("cmdline").read_bytes().decode().split("\0")
        module = words[words.index("-m") + 1].removeprefix("services.inference.")
        name = " ".join([module, *words[words.index("-m") + 2 :][:1]]) + f" {Path(words[-2]).name}"
        status = process.joinpath("status").read_text()
        [peak] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        self.peaks[name] = max(self.peaks.get(name, 0.0), int(peak) / 1024)


def finished(client: httpx.Client, token: str, kind: str, **request: str) -> dict[str, object]:
    """Runs a job; prints how long each of its parts took."""
    start = time.perf_counter()
    created = client.post(f"/api/jobs/{kind}", json=request, headers={"X-CSRF-Token": token})
    created.raise_for_status()
    message = ""
    while True:
        job = client.get(f"/api/jobs/{created.json()['job_id']}").raise_for_status().json()
        if job.get("message") and job["message"] != message:
            message = job["message"]
            print(f"  {time.perf_counter() - start:6.1f} s  {job['progress']:3d} %  {message}")
        if job["status"] not in ("pending", "running"):
            seconds = time.perf_counter() - start
            print(f"{kind}: {job['status']} after {seconds:.1f} s {job['error'] or ''}")
            return dict(job)
        # The API takes 1000 requests an hour.
        time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triangles", type=int, default=5_000_000)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}")
    with (
        tempfile.TemporaryDirectory() as data,
        Stack(Path(data) / "stack", free_port()) as stack,
        httpx.Client(base_url=stack.url, timeout=600) as client,
        StepMemory(stack.pid_of("inference")) as memory,
    ):
        model = Path(data) / "star.glb"
        write_star(model, arguments.triangles)
        token = client.get("/api/csrf-token").json()["csrf_token"]
        with model.open("rb") as file:
            uploaded = client.post(
                "/api/upload", files={"file": file}, headers={"X-CSRF-Token": token}
            )
        path = uploaded.raise_for_status().json()["path"]
        skeleton = finished(client, token, "skeleton", input_file=path)
        if skeleton["status"] == "completed":
            bones = str(skeleton["output_file"])
            skinning = finished(client, token, "skinning", input_file=bones)
            if skinning["status"] == "completed":
                skin = str(skinning["output_file"])
                finished(client, token, "merge", skeleton_file=bones, skinning_file=skin)
    for name, peak in sorted(memory.peaks.items(), key=lambda entry: -entry[1]):
        print(f"{peak:8.0f} MiB  {name}")


if __name__ == "__main__":
    main()
