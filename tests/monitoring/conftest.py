"""promtool, and one watched stack for all tests."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.monitoring.prometheus_program import Programs, find_prometheus
from tests.monitoring.watched_stack import WatchedStack, use, watched_stack


@pytest.fixture(scope="session")
def programs() -> Programs:
    return find_prometheus()


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedStack]:
    """A stack that was used, as Prometheus has seen it."""
    folder: Path = tmp_path_factory.mktemp("watched")
    with watched_stack(folder) as watched:
        use(watched.stack)
        yield replace(watched, seen_at=watched.prometheus.wait_for_scrapes())
