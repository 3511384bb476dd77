"""The dashboards are what Grafana reads, and what a reader takes in at a glance."""

import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.chart.helm_program import Helm, install_helm
from tests.monitoring.dashboards import DASHBOARDS, FILES, Panel, panels

_TESTS = Path(__file__).parents[1]
_NODE_MODULES = _TESTS / "node_modules"
# Set by Grafana itself.
_GLOBAL = {"__rate_interval"}

Dashboard = dict[str, Any]
every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)


def _type_faults(folder: Path, literal: str) -> str:
    """What the TypeScript compiler says of a dashboard, by Grafana's own types."""
    (folder / "node_modules").symlink_to(_NODE_MODULES)
    types = (Path(__file__).parent / "dashboard_types.ts").read_text()
    (folder / "dashboard.ts").write_text(f"{types}\ndashboards.push({literal})\n")
    compiler = _NODE_MODULES / "typescript" / "bin" / "tsc"
    options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022"]
    options += ["--module", "esnext", "--moduleResolution", "bundler"]
    return subprocess.run(
        ["node", str(compiler), *options, "dashboard.ts"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    ).stdout


needs_types = pytest.mark.skipif(
    not (_NODE_MODULES / "@grafana" / "schema").is_dir(),
    reason="Grafana's types are missing: npm ci in tests/",
)


@needs_types
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_dashboard_has_the_fields_that_grafana_reads(tmp_path: Path, file: Path) -> None:
    assert _type_faults(tmp_path, file.read_text()) == ""


@needs_types
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"schemaVersion"', '"schemeVersion"'),
        ('"fillOpacity"', '"fillOpaqueness"'),
        ('"mode": "absolute"', '"mode": "absolut"'),
        ('"legendFormat"', '"legend"'),
        ('"w": 8', '"w": "8"'),
    ],
)
def test_the_types_refuse_a_mistake(tmp_path: Path, right: str, wrong: str) -> None:
    text = FILES[-1].read_text()
    assert right in text
    assert _type_faults(tmp_path, text.replace(right, wrong, 1))


def test_the_three_are_told_apart() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS) == 3
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == 3
    assert all(dashboard["tags"] == ["unirig"] for dashboard in DASHBOARDS.values())


@every_dashboard
def test_every_panel_has_an_id_of_its_own(dashboard: Dashboard) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


@every_dashboard
def test_panels_lie_side_by_side_within_the_grid(dashboard: Dashboard) -> None:
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
    for one, other in itertools.combinations(dashboard["panels"], 2):
        assert not _overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


@every_dashboard
def test_every_panel_says_what_it_shows_and_in_what_unit(dashboard: Dashboard) -> None:
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(titles) == len(set(titles))
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@every_dashboard
def test_every_target_asks_and_those_of_several_series_are_named(dashboard: Dashboard) -> None:
    for panel in panels(dashboard):
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["expr"].strip(), panel["title"]
            if panel["type"] == "timeseries":
                assert target["legendFormat"], panel["title"]


@every_dashboard
def test_every_variable_is_defined_and_used(dashboard: Dashboard) -> None:
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", str([_asked(panel) for panel in panels(dashboard)])))
    assert used - _GLOBAL == defined


def _asked(panel: Panel) -> Any:
    return [panel["datasource"], [target["expr"] for target in panel["targets"]]]


@every_dashboard
def test_rates_are_over_what_grafana_finds_right_for_the_scrapes(dashboard: Dashboard) -> None:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            ranges = set(re.findall(r"rate\([^\[]*\[([^\]]+)\]", target["expr"]))
            assert ranges <= {"$__rate_interval"}, target["expr"]


def test_the_chart_ships_them_as_they_are() -> None:
    helm: Helm = install_helm("4.1")
    label = "monitoring.dashboards.labels.grafana_dashboard=yes"
    manifests = helm.template(
        options=("--set", "monitoring.dashboards.enabled=true", "--set-string", label)
    )
    shipped = {
        name: text
        for manifest in manifests
        if manifest["metadata"]["labels"].get("grafana_dashboard") == "yes"
        for name, text in manifest["data"].items()
    }
    assert shipped == {file.name: file.read_text() for file in FILES}
