"""The chart rendered with several sets of values, once for all tests."""

import functools
from pathlib import Path
from typing import Any

import pytest

from tests.chart.helm_program import CHART, Helm, install_helm

_VALUES = Path(__file__).parent / "values"
COMBINATIONS: dict[str, tuple[Path, ...]] = {
    "defaults": (),
    "laptop": (CHART / "values-laptop.yaml",),
    **{file.stem: (file,) for file in sorted(_VALUES.glob("*.yaml"))},
}


@functools.cache
def _rendered(combination: str) -> list[dict[str, Any]]:
    return install_helm("4.1").template(*COMBINATIONS[combination])


@pytest.fixture(scope="session")
def helm() -> Helm:
    """The newer helm."""
    return install_helm("4.1")


@pytest.fixture(scope="session", params=["3.17", "4.1"])
def any_helm(request: pytest.FixtureRequest) -> Helm:
    """Each helm that an operator may have."""
    return install_helm(request.param)


@pytest.fixture(params=list(COMBINATIONS))
def combination(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manifests(combination: str) -> list[dict[str, Any]]:
    """What the chart makes of one set of values. Not to be changed."""
    return _rendered(combination)


@pytest.fixture(scope="session")
def defaults() -> list[dict[str, Any]]:
    """What the chart makes of its own values. Not to be changed."""
    return _rendered("defaults")
