"""The dashboards that the chart ships, and the queries in them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.chart.helm_program import CHART

FILES = sorted((CHART / "files" / "dashboards").glob("*.json"))
NAMESPACE = "rigging"
Panel = dict[str, Any]


@dataclass(frozen=True)
class Query:
    dashboard: str
    panel: str
    expression: str

    def __str__(self) -> str:
        return f"{self.dashboard}, {self.panel}: {self.expression}"


DASHBOARDS: dict[str, dict[str, Any]] = {file.stem: json.loads(file.read_text()) for file in FILES}


def panels(dashboard: dict[str, Any]) -> list[Panel]:
    """All that show something: rows left out."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def filled(expression: str, rate_interval: str = "5m") -> str:
    """The expression with Grafana's variables filled in."""
    expression = expression.replace("$__rate_interval", rate_interval)
    expression = expression.replace("$namespace", NAMESPACE)
    assert "$" not in expression, expression
    return expression


def queries() -> Iterator[Query]:
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield Query(name, panel["title"], filled(target["expr"]))
