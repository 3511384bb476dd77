"""What each image promises, read in its Dockerfile; `make smoke-images` tries the images."""

import json
import re
from pathlib import Path

import pytest

from services.cli.system_libraries import PACKAGES

ROOT = Path(__file__).parents[2]
SERVICES = ("gateway", "sessions", "jobs", "storage", "inference")
DOCKERFILES = {
    **{name: ROOT / "services" / name / "Dockerfile" for name in SERVICES},
    "triton": ROOT / "services" / "inference" / "triton.Dockerfile",
}

every_image = pytest.mark.parametrize("name", DOCKERFILES)


def instructions(name: str) -> list[str]:
    """The Dockerfile's instructions, each on one line, without comments."""
    lines = [line for line in DOCKERFILES[name].read_text().splitlines() if line[:1] != "#"]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [line for line in joined.splitlines() if line]


def last(name: str, keyword: str) -> str:
    """The arguments of the last instruction with the keyword."""
    return [line for line in instructions(name) if line.startswith(keyword + " ")][-1].split(
        " ", 1
    )[1]


def test_there_is_one_for_every_service() -> None:
    services = {path.parent.name for path in ROOT.glob("services/*/__main__.py")} - {"cli"}
    assert services == set(SERVICES)


@every_image
def test_the_base_is_pinned_and_can_be_another(name: str) -> None:
    bases = dict(re.findall(r"^ARG (\w*BASE)=(\S+)$", DOCKERFILES[name].read_text(), re.M))
    assert set(bases) == ({"BASE", "NODE_BASE"} if name == "gateway" else {"BASE"})
    for base in bases.values():
        assert re.search(r":(\d+\.\d+\.\d+-(slim-bookworm|bookworm-slim)|\d\d\.\d\d-py3)$", base)
    known = {*(f"${{{base}}}" for base in bases), "packages", "runtime"}
    froms = [line.split()[1] for line in instructions(name) if line.startswith("FROM ")]
    assert set(froms) <= known


@every_image
def test_it_runs_as_a_user_without_rights(name: str) -> None:
    assert last(name, "USER") == "10001:10001"


@every_image
def test_it_installs_its_own_extra_and_no_other(name: str) -> None:
    installed = re.findall(r"'\.\[(.*?)\]'", DOCKERFILES[name].read_text())
    assert installed == [name]


@every_image
def test_it_says_what_is_in_it_and_how_it_is(name: str) -> None:
    assert "COPY --from=sbom /sbom.cdx.json ./" in instructions(name)
    assert f'org.opencontainers.image.title="unirig-{name}"' in last(name, "LABEL")
    assert "CMD [" in last(name, "HEALTHCHECK")


@pytest.mark.parametrize("name", SERVICES)
def test_signals_reach_the_service_itself(name: str) -> None:
    assert json.loads(last(name, "ENTRYPOINT")) == ["python3", "-m", f"services.{name}"]


def test_the_workers_image_has_the_libraries_that_blender_needs() -> None:
    (install,) = [line for line in instructions("inference") if "apt-get install" in line]
    # Only Triton's own Python needs its library, and that is in another image.
    needed = set(PACKAGES.values()) - {"libpython3.11"}
    assert set(re.findall(r"\blib[\w+-]+", install.split("&& rm")[0])) == needed
