"""A real Triton Inference Server as a local process, from a package that needs no root.

It runs the repository that a GPU node runs, on the CPU. What a server needs goes into its folder:

    backends/    Triton's Python back end, put together for this Python
    triton.log   what the server and its models print
"""

import contextlib
import http.client
import importlib.util
import os
import re
import secrets
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services import inference
from services.cli.servers import ServerError, free_port
from services.cli.system_libraries import python_library

_HOST = "127.0.0.1"
_REPOSITORY = Path(inference.__file__).parent / "model_repository"
_MODELS = ("unirig_skeleton", "unirig_skin")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux has it
# How long requests that run may go on after SIGTERM, seconds.
_EXIT_SECONDS = 5
# As in a cluster, where clients are to find new replicas.
_CONNECTION_MS = 60_000


@dataclass(frozen=True)
class TritonServer:
    """A running tritonserver and where to reach it.

    address: host and port of its gRPC. http_url: of its HTTP API, where the probes are.
    metrics_url: what Prometheus reads.
    """

    address: str
    http_url: str
    metrics_url: str
    process: "subprocess.Popen[bytes]"
    log: Path
    shm_prefix: str

    def stop(self) -> None:
        """Asks it to end, waits, and kills it only if it will not. Nothing of it is left."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2 * _EXIT_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Ends it at once, as a lost node would. Nothing of it is left."""
        # Each model is a process of its own, which outlives a server that was killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        while self._has_processes():
            time.sleep(0.01)
        for region in _SHARED_MEMORY.glob(f"{self.shm_prefix}*"):
            region.unlink(missing_ok=True)

    def is_live(self) -> bool:
        """Whether it answers: models were tried by then, but may be missing."""
        return self._answers("/v2/health/live")

    def is_ready(self) -> bool:
        """Whether it answers and has all its models."""
        return self._answers("/v2/health/ready")

    def metrics(self) -> str:
        """What Prometheus would read."""
        with urllib.request.urlopen(self.metrics_url, timeout=5) as answer:  # noqa: S310 - http
            return str(answer.read().decode())

    def _has_processes(self) -> bool:
        """Whether any process of the server's group still runs."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.process.pid and state != "Z":
                    return True
        return False

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"{self.http_url}{path}", timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError, http.client.HTTPException):
            return False


def start_triton(
    folder: Path,
    settings: Mapping[str, str],
    *,
    address: str | None = None,
    start_seconds: float = 180,
) -> TritonServer:
    """Starts Triton on free ports and waits until it answers and has tried to load both models.

    folder: for its back end and log. settings: environment variables of the models, over those of
    this process. TRITON_TRACE_URL: where it sends spans by OTLP/HTTP.
    address: of its gRPC, where that must be the one of an earlier server.
    A model that cannot be loaded does not keep it from starting: the repository index has the
    reason. Raises ServerError, which says what to do, where Triton cannot be started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    package = _package()
    back_ends = _put_back_end_together(package, folder / "backends")
    environment = _environment(package, settings)
    grpc_port = int(address.rpartition(":")[2]) if address else free_port()
    http_port, metrics_port = free_port(), free_port()
    shm_prefix = f"unirig_triton_{secrets.token_hex(4)}_"
    command = [
        str(package / "tritonserver" / "bin" / "tritonserver"),
        f"--model-repository={_REPOSITORY}",
        f"--backend-directory={back_ends}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        *("--model-control-mode=explicit", *(f"--load-model={model}" for model in _MODELS)),
        # The configurations are whole; to complete them Triton would start each model twice.
        "--disable-auto-complete-config",
        "--exit-on-error=false",
        f"--exit-timeout-secs={_EXIT_SECONDS}",
        *(f"--{what}-address={_HOST}" for what in ("http", "grpc", "metrics")),
        f"--http-port={http_port}",
        f"--grpc-port={grpc_port}",
        f"--metrics-port={metrics_port}",
        f"--grpc-max-connection-age={_CONNECTION_MS}",
        *trace_options(environment.get("TRITON_TRACE_URL", "")),
    ]
    log = folder / "triton.log"
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - a program of the installed package
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = TritonServer(
        address=f"{_HOST}:{grpc_port}",
        http_url=f"http://{_HOST}:{http_port}",
        metrics_url=f"http://{_HOST}:{metrics_port}/metrics",
        process=process,
        log=log,
        shm_prefix=shm_prefix,
    )
    _wait_until_live(server, start_seconds)
    return server


def trace_options(url: str) -> list[str]:
    """Traces every request that names its trace, and next to none of the others."""
    if not url:
        return []
    settings = ("mode=opentelemetry", "level=TIMESTAMPS", f"rate={2**31 - 1}")
    exporter = (f"url={url}", "resource=service.name=unirig-triton")
    return [
        *(f"--trace-config={setting}" for setting in settings),
        *(f"--trace-config=opentelemetry,{setting}" for setting in exporter),
    ]


def _wait_until_live(server: TritonServer, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    try:
        while not server.is_live():
            if server.process.poll() is not None or time.monotonic() > deadline:
                tail = server.log.read_text(errors="replace")[-2000:]
                raise ServerError(f"Triton did not start:\n{tail}")
            time.sleep(0.05)
    except BaseException:
        server.kill()
        raise


def _environment(package: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """What makes the models run with this Python, its packages and this project."""
    libraries = [_shared_library().parent, package.parent / "nvidia_pytriton.libs"]
    root = Path(inference.__file__).parents[2]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(str(folder) for folder in libraries),
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
        "PYTHONPATH": str(root),
        **settings,
    }


def _package() -> Path:
    """The folder of the package that brings tritonserver; the package itself is never imported."""
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        raise ServerError("Triton is missing: pip install --no-deps nvidia-pytriton==0.7.0")
    return Path(found.submodule_search_locations[0])


def _shared_library() -> Path:
    """The shared library of the very Python that runs this: another one's would not fit."""
    library = python_library()
    if not re.match(r"libpython.*\.so", library.name) or not library.is_file():
        raise ServerError(
            f"Triton needs a Python with a shared library, which {sys.executable} has not. Use one"
            " that has, such as Debian's python3.11 with the package libpython3.11, or one built"
            " with --enable-shared, and make the virtual environment anew."
        )
    return library


def _put_back_end_together(package: Path, folder: Path) -> Path:
    """Triton's Python back end with the program that runs models on this version of Python."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = package / "tritonserver/python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServerError(f"nvidia-pytriton runs no models on Python {version}: use Python 3.11")
    back_end = folder / "python"
    back_end.mkdir(parents=True, exist_ok=True)
    library = package / "tritonserver/backends/python"
    for file in (
        library / "libtriton_python.so",
        library / "triton_python_backend_utils.py",
        stub,
    ):
        # A link, as a copy cannot be written over while an earlier server's models still end.
        link = back_end / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file)
    return folder
