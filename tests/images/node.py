"""Does with podman what a node does with pods: starts them, asks their probes, ends them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from tests.images import service_proxy
from tests.images.pods import Claim, Container, Pod, Probe, Proxy

# In all, as readiness also waits for what a pod depends on.
_READY_SECONDS = 180
_PAUSE_SECONDS = 1
_ASK = "import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=float(sys.argv[2])).close()"


class NodeError(Exception):
    """A pod is not as it should be, or podman refuses; the text says which."""


def podman(*arguments: str, seconds: float | None = None) -> str:
    """What it prints. The error names no more than the verb: arguments may hold secrets."""
    try:
        done = _podman(*arguments, seconds=seconds)
    except subprocess.TimeoutExpired as error:
        raise NodeError(f"podman {arguments[0]}: not done in {seconds} s") from error
    if done.returncode != 0:
        raise NodeError(f"podman {arguments[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def _podman(*arguments: str, seconds: float | None = None) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["podman", *arguments], capture_output=True, text=True, check=False, timeout=seconds
        )
    except FileNotFoundError:
        sys.exit("This needs podman, run by root (Debian: apt-get install podman)")


@contextmanager
def running_node(network: str, image: str) -> Iterator["Node"]:
    """A node in a new network of this name; nothing is left behind.

    image: one with Python, for what is the cluster's part.
    """
    try:
        # Names are in every container's /etc/hosts: podman's own DNS loses questions that come
        # while it learns of another container.
        podman("network", "create", "--disable-dns", network)
        inspection = ("network", "inspect", "--format={{(index .Subnets 0).Subnet}}", network)
        node = Node(network, IPv4Network(podman(*inspection)), image)
        node.run_own("kubelet", node.subnet[2], "sleep", "infinity")
        yield node
    finally:
        containers = _podman("ps", "--all", "--quiet", f"--filter=network={network}").stdout
        _podman("rm", "--force", "--time=0", *containers.split())
        volumes = _podman("volume", "ls", "--quiet", f"--filter=name={network}-").stdout
        _podman("volume", "rm", "--force", *volumes.split())
        _podman("network", "rm", network)


@dataclass(frozen=True)
class Node:
    """See running_node. subnet: the network's addresses."""

    network: str
    subnet: IPv4Network
    image: str

    def run_own(
        self,
        name: str,
        address: object,
        program: str,
        *arguments: str,
        options: Iterable[str] = (),
    ) -> None:
        """A container that is no pod's. options: of `podman run`."""
        podman(
            *("run", "--detach", "--no-healthcheck", "--user=0", "--stop-timeout=0"),
            *(f"--name={self.network}-{name}", f"--network={self.network}", f"--ip={address}"),
            *(*options, f"--entrypoint={program}", self.image, *arguments),
        )

    def end_own(self, name: str) -> None:
        """Ends such a container, if there is one."""
        podman("rm", "--force", "--ignore", "--time=0", f"{self.network}-{name}")

    def serve(self, proxy: Proxy, published: str | None = None) -> None:
        """A Service with an address of its own. published: "address:port:port of the Service"."""
        script = Path(service_proxy.__file__)
        self.run_own(
            *(f"service-{proxy.service}", proxy.address, "python3", f"/{script.name}"),
            *(f"{port}={','.join(targets)}" for port, targets in proxy.routes.items()),
            options=[
                f"--volume={script}:/{script.name}:ro",
                *([f"--publish={published}"] if published else []),
            ],
        )

    def provide(self, pods: Iterable[Pod]) -> None:
        """Makes the volumes and mounted files that they need."""
        for pod in pods:
            for claim in pod.claims:
                self._make(claim)
            for folder in pod.folders:
                folder.path.mkdir(parents=True)
                for name, text in folder.texts.items():
                    file = folder.path / name
                    file.write_text(text)
                    file.chmod(folder.mode)
                    if folder.group is not None:
                        os.chown(file, 0, folder.group)

    def _make(self, claim: Claim) -> None:
        podman("volume", "create", claim.volume)
        # Also without a group, as podman gives a volume to whoever mounts it first.
        change = f"chown 0:{claim.group} /volume && chmod 2775 /volume" if claim.group else ":"
        podman(
            *("run", "--rm", "--no-healthcheck", "--network=none", "--user=0"),
            *(f"--volume={claim.volume}:/volume:nocopy", "--entrypoint=sh", self.image),
            *("-c", change),
        )

    def start(self, pods: Iterable[Pod]) -> None:
        """All at once; each pod's init containers have ended well before its own starts."""
        pods = tuple(pods)
        with ThreadPoolExecutor(len(pods)) as pool:
            list(pool.map(self._start, pods))

    def _start(self, pod: Pod) -> None:
        for container in pod.init:
            self._run(container, "--rm")
        self._run(pod.main, "--detach")

    def execute(self, pod: Pod, *command: str) -> None:
        """Runs a command in a pod, which must succeed."""
        podman("exec", self._name(pod.main), *command)

    def complete(self, pod: Pod) -> str:
        """Runs a pod that ends by itself, within its deadline; what it prints."""
        return self._run(pod.main, "--rm", seconds=pod.deadline)

    def _run(self, container: Container, how: str, seconds: float | None = None) -> str:
        # The kubelet knows no health commands of images.
        options = ("--no-healthcheck", "--pull=never", f"--name={self._name(container)}")
        return podman("run", how, *options, *container.arguments, seconds=seconds)

    def _name(self, container: Container) -> str:
        return f"{self.network}-{container.name}"

    def wait_until_ready(self, pod: Pod) -> None:
        """Asks its probes as the kubelet would, and then looks at its confinement."""
        for kind, probe in pod.main.probes.items():
            seconds = _READY_SECONDS if kind == "readiness" else probe.seconds
            deadline = time.monotonic() + seconds
            while not self._answers(pod, probe):
                if self._inspect(pod, "State.Running") != "true":
                    raise NodeError(f"{pod.name} ended: {self._inspect(pod, 'State.ExitCode')}")
                if time.monotonic() > deadline:
                    raise NodeError(f"{pod.name}: no {kind} in {seconds} s")
                time.sleep(_PAUSE_SECONDS)
        self._check_confinement(pod)

    def _answers(self, pod: Pod, probe: Probe) -> bool:
        if probe.command:
            done = _podman("exec", self._name(pod.main), *probe.command)
        else:
            url = f"http://{pod.address}:{probe.port}{probe.path}"
            asking = ("python3", "-c", _ASK, url, str(probe.timeout))
            done = _podman("exec", f"{self.network}-kubelet", *asking)
        return done.returncode == 0

    def _check_confinement(self, pod: Pod) -> None:
        """Linux says of the first process what the manifest says of the container."""
        process = Path("/proc") / self._inspect(pod, "State.Pid")
        lines = (process / "status").read_text().splitlines()
        found = {
            key: " ".join(value.split()) for key, _, value in (x.partition(":") for x in lines)
        }
        for key, value in pod.main.status.items():
            if found[key] != value:
                raise NodeError(f"{pod.name} runs with {key} {found[key]}, not {value}")
        mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
        (root,) = (mount[5].split(",") for mount in mounts if mount[4] == "/")
        if ("--read-only" in pod.main.arguments) != ("ro" in root):
            raise NodeError(f"{pod.name} has its root mounted {root}")

    def stop(self, pods: Iterable[Pod]) -> dict[str, float]:
        """SIGTERM to all at once; from the decision to each one's end, seconds.

        Raises NodeError where one ends with a failure, or not by itself within its grace.
        """
        pods = tuple(pods)
        with ThreadPoolExecutor(len(pods)) as pool:
            seconds = list(pool.map(self._stop, pods))
        return {pod.name: took for pod, took in zip(pods, seconds, strict=True)}

    def _stop(self, pod: Pod) -> float:
        begin = time.monotonic()
        time.sleep(pod.main.pause)
        podman("stop", f"--time={int(pod.grace - pod.main.pause)}", self._name(pod.main))
        took = time.monotonic() - begin
        code = self._inspect(pod, "State.ExitCode")
        if code != "0":
            raise NodeError(f"{pod.name} ended with {code} after {took:.1f} s")
        podman("rm", self._name(pod.main))
        return took

    def _inspect(self, pod: Pod, field: str) -> str:
        return podman("inspect", f"--format={{{{.{field}}}}}", self._name(pod.main))

    def logs(self, pods: Iterable[Pod]) -> str:
        """The end of each pod's."""
        ends = []
        for pod in pods:
            done = _podman("logs", "--tail=10", self._name(pod.main))
            ends.append(f"--- {pod.name}\n{done.stdout}{done.stderr}")
        return "\n".join(ends)
