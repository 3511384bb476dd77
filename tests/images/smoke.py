"""Rigs the example character through the images, each as confined as in a cluster.

    make smoke-images IMAGE_TOOL=podman        or: python -m tests.images.smoke --engine unirig

Every container runs as 10001 without capabilities or new privileges, on a root that is read-only;
only /tmp and the storage's volume can be written. NATS and Redis are those of the chart. With the
engine unirig the networks are tiny ones with random weights. Prints what each image has and how
large it is; exits 1, with the ends of the logs, where anything is not as it should be.
"""

import argparse
import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console

from services.cli.character import write_character
from services.cli.client import ClientError
from services.cli.rig import rig
from services.cli.servers import free_port

TOOL = shlex.split(os.environ.get("IMAGE_TOOL", "docker"))
REGISTRY = os.environ.get("REGISTRY", "localhost")
TAG = os.environ.get("TAG", "1.0.0")
SERVICES = ("storage", "sessions", "jobs", "inference", "gateway")
USER = "10001:10001"
_CHART = Path(__file__).parents[2] / "helm" / "unirig" / "values.yaml"
_READY_SECONDS = 180
_READY = "import urllib.request as r; r.urlopen('http://127.0.0.1:{}', timeout=5)"
# What must not be in any image, and what may only be in one.
_COMPILERS = ("gcc", "cc", "g++", "c++", "clang", "make")
_ONLY_IN = {"torch": "triton", "bpy": "inference"}


class SmokeError(Exception):
    """Something is not as it should be; the text says what."""


@dataclass(frozen=True)
class Container:
    """One container to run: what a pod of the chart's would have of it.

    volumes: from a volume's or a folder's name to where it is in the container.
    ready: port and path of the probe, or None where there is none.
    """

    name: str
    image: str
    environment: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    ready: str | None = "9090/readyz"


def image_of(name: str) -> str:
    return f"{REGISTRY}/unirig-{name}:{TAG}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["geometric", "unirig"], default="geometric")
    engine = parser.parse_args().engine
    console = Console(highlight=False, soft_wrap=True)
    names = [*SERVICES, "triton"] if engine == "unirig" else list(SERVICES)
    network = f"unirig-smoke-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="unirig-smoke-") as folder:
        try:
            for name in names:
                console.print(_examined(name))
            _run_all(network, engine, Path(folder), console)
        except (SmokeError, ClientError) as error:
            console.print(f"Error: {error}", style="red", markup=False)
            for name in names:
                console.print(f"--- {name}\n{_logs(network, name)}", markup=False)
            sys.exit(1)
        finally:
            _remove(network, [*names, "nats", "redis"])


def _examined(name: str) -> str:
    """A line on the image; raises SmokeError where it has what it must not have."""
    image = image_of(name)
    (about,) = json.loads(_tool("image", "inspect", image))
    config = about["Config"]
    packages = {
        part["name"].lower(): part["version"]
        for part in json.loads(_once(image, "cat", "/app/sbom.cdx.json"))["components"]
    }
    for package, owner in _ONLY_IN.items():
        if (package in packages) != (name == owner):
            raise SmokeError(f"{image}: {package} belongs into {owner}'s image and no other")
    if config["User"] != USER or "org.opencontainers.image.version" not in config["Labels"]:
        raise SmokeError(f"{image}: the user is {config['User']}, the labels {config['Labels']}")
    found = _once(image, "sh", "-c", f"for c in {' '.join(_COMPILERS)}; do command -v $c; done; :")
    if found and name != "triton":
        raise SmokeError(f"{image} has compilers: {found}")
    if _once(image, "sh", "-c", "touch /app/new 2>/dev/null && echo written || :"):
        raise SmokeError(f"{image}: its own files can be written")
    return f"{name:<10} {about['Size'] / 1e6:7.0f} MB  {len(packages):3d} Python packages"


def _run_all(network: str, engine: str, folder: Path, console: Console) -> None:
    _tool("network", "create", network)
    port = free_port()
    for container in _containers(network, engine, folder, port):
        _start(network, container)
    for container in _containers(network, engine, folder, port):
        if container.ready:
            _wait_until_ready(network, container)
            console.print(f"{container.name} is ready")
    for name in SERVICES:
        _tool("exec", f"{network}-{name}", "python3", "-m", "services.common.healthcheck")
    character = folder / "character.glb"
    write_character(character)
    rigged = [folder / "rigged.glb", folder / "rigged.fbx"]
    notes = rig(character, rigged, f"http://127.0.0.1:{port}", console)
    sizes = ", ".join(f"{path.name} {path.stat().st_size} bytes" for path in rigged)
    console.print(f"Rigged: {sizes} {' '.join(notes)}")
    for name in SERVICES:
        _stop(f"{network}-{name}")
    console.print("Every service ended by itself on SIGTERM")


def _containers(network: str, engine: str, folder: Path, port: int) -> list[Container]:
    chart = yaml.safe_load(_CHART.read_text())
    nats, redis = (
        f"{chart[name]['image']['repository']}:{chart[name]['image']['tag']}"
        for name in ("nats", "redis")
    )
    own = {
        "sessions": Container(
            "sessions", image_of("sessions"), {"SIGNING_KEYS": secrets.token_hex(32)}
        ),
        "jobs": Container("jobs", image_of("jobs")),
        "storage": Container(
            "storage",
            image_of("storage"),
            {"DISK_WARNING_GB": "2", "DISK_CRITICAL_GB": "1"},
            volumes={f"{network}-data": "/data"},
        ),
        "inference": Container("inference", image_of("inference"), {"ENGINE": engine}),
        "gateway": Container("gateway", image_of("gateway"), ports=(f"127.0.0.1:{port}:8080",)),
    }
    servers = [
        Container("nats", nats, command=("-js", "-sd", "/tmp/nats"), ready=None),
        # It has no password here; the network is its own.
        Container(
            "redis",
            redis,
            command=("redis-server", "--save", "", "--protected-mode", "no"),
            ready=None,
        ),
    ]
    triton = [_triton(folder)] if engine == "unirig" else []
    return [*servers, *triton, *(own[name] for name in SERVICES)]


def _triton(folder: Path) -> Container:
    # Here, as they need torch.
    from tests.tiny_unirig import tiny_settings, write_tiny_checkpoints

    models = folder / "models"
    if not models.exists():
        # In a cluster the user who serves them has fetched them.
        for file in (folder, *write_tiny_checkpoints(models).iterdir()):
            file.chmod(0o755)
    return Container(
        "triton",
        image_of("triton"),
        tiny_settings(Path("/models")),
        volumes={str(models): "/models:ro"},
        ready="8000/v2/health/ready",
    )


def _start(network: str, container: Container) -> None:
    environment = [f"--env={key}={value}" for key, value in container.environment.items()]
    volumes = [f"--volume={what}:{where}" for what, where in container.volumes.items()]
    _tool(
        *("run", "--detach", f"--name={network}-{container.name}", f"--network={network}"),
        *(f"--network-alias={container.name}", f"--hostname={container.name}"),
        *_confinement(),
        *environment,
        *volumes,
        *(f"--publish={port}" for port in container.ports),
        container.image,
        *container.command,
    )


def _confinement() -> list[str]:
    """The chart's securityContext, in an engine's words."""
    # Podman would add folders that can be written, which no cluster does.
    podman = ["--read-only-tmpfs=false"] if "podman" in TOOL[0] else []
    return [
        f"--user={USER}",
        "--read-only",
        *podman,
        "--tmpfs=/tmp:rw,mode=1777",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
    ]


def _wait_until_ready(network: str, container: Container) -> None:
    name = f"{network}-{container.name}"
    probe = ["exec", name, "python3", "-c", _READY.format(container.ready)]
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if subprocess.run([*TOOL, *probe], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.5)
    raise SmokeError(f"{container.name} is not ready")


def _stop(container: str) -> None:
    """SIGTERM, as the kubelet sends; raises SmokeError where SIGKILL had to follow."""
    _tool("stop", "--time=30", container)
    code = _tool("inspect", "--format={{.State.ExitCode}}", container)
    if code != "0":
        raise SmokeError(f"{container} ended with {code} on SIGTERM")


def _once(image: str, *command: str) -> str:
    """What a command in the image prints."""
    program, *arguments = command
    return _tool("run", "--rm", "--network=none", f"--entrypoint={program}", image, *arguments)


def _tool(*arguments: str) -> str:
    done = subprocess.run([*TOOL, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SmokeError(f"{shlex.join([*TOOL, *arguments])}\n{done.stderr.strip()}")
    return done.stdout.strip()


def _logs(network: str, name: str) -> str:
    command = [*TOOL, "logs", "--tail=10", f"{network}-{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _remove(network: str, names: Sequence[str]) -> None:
    for command in (
        ["rm", "--force", "--volumes", *(f"{network}-{name}" for name in names)],
        ["volume", "rm", "--force", f"{network}-data"],
        ["network", "rm", network],
    ):
        subprocess.run([*TOOL, *command], capture_output=True, check=False)


if __name__ == "__main__":
    main()
