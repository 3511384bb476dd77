"""The real Prometheus and its promtool, from the operating system's package."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Kept between runs; not in the repository.
_KEPT = Path(__file__).parent / ".prometheus"
_PACKAGE = "prometheus"
_SECONDS = 240


@dataclass(frozen=True)
class Programs:
    prometheus: Path
    promtool: Path

    def check(self, *arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        """promtool with the arguments; text is its standard input."""
        return subprocess.run(
            [str(self.promtool), *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )


def find_prometheus() -> Programs:
    """Those on the PATH, else the package's, unpacked into a folder of ours.

    It is not installed: that would start a server, and needs root. AssertionError where it cannot
    be had.
    """
    installed = [shutil.which(name) for name in ("prometheus", "promtool")]
    if all(installed):
        return Programs(*(Path(program or "") for program in installed))
    folder = _KEPT / "usr" / "bin"
    if not (folder / "promtool").exists():
        _unpack()
    return Programs(folder / "prometheus", folder / "promtool")


def _unpack() -> None:
    _KEPT.mkdir(exist_ok=True)
    if not _run("apt-get", "download", _PACKAGE):
        # The lists of packages may be missing or old; only root may fetch them.
        _run("apt-get", "update", "-qq")
        fetched = _run("apt-get", "download", _PACKAGE)
        assert fetched, "Prometheus and promtool are missing: apt-get install prometheus"
    (archive,) = _KEPT.glob(f"{_PACKAGE}_*.deb")
    assert _run("dpkg", "-x", archive.name, "."), f"{archive} cannot be unpacked"
    archive.unlink()


def _run(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    done = subprocess.run(command, cwd=_KEPT, capture_output=True, check=False, timeout=_SECONDS)
    return done.returncode == 0
