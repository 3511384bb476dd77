"""Dashboards and rules ask for what the running stack exports, and get an answer."""

import functools
import math
import re
from pathlib import Path

import httpx
import pytest
import yaml

from services.cli.stack import SERVICES
from tests.chart.conftest import COMBINATIONS
from tests.chart.helm_program import CHART, install_helm
from tests.chart.manifest_checks import of_kind
from tests.monitoring import gpu_metrics
from tests.monitoring.dashboards import Query, queries
from tests.monitoring.expressions import SeriesOf, faults, selectors
from tests.monitoring.prometheus_program import Programs
from tests.monitoring.watched_stack import WatchedStack

_DOCS = Path(__file__).parents[2] / "docs"
_RUNBOOKS = _DOCS / "runbooks"
_RULES = yaml.safe_load((CHART / "files" / "rules" / "unirig.yaml").read_text())
_EXPRESSIONS = {
    rule.get("alert") or rule["record"]: rule["expr"]
    for group in _RULES["groups"]
    for rule in group["rules"]
}
# Prometheus's own, there only while an alert is pending or fires.
_ALERTS = [{"alertname": "UnirigNone", "alertstate": "firing", "namespace": "rigging"}]


@pytest.fixture(scope="module")
def series_of(watched: WatchedStack) -> SeriesOf:
    @functools.cache
    def series_of(name: str) -> list[dict[str, str]]:
        return _ALERTS if name == "ALERTS" else watched.prometheus.series(name)

    return series_of


@pytest.mark.parametrize(
    "query", list(queries()), ids=lambda query: f"{query.dashboard}:{query.panel}"
)
def test_a_panel_names_what_there_is_and_shows_something(
    watched: WatchedStack, series_of: SeriesOf, query: Query
) -> None:
    assert not faults(query.expression, series_of), query
    samples = watched.prometheus.query(query.expression, watched.seen_at)
    values = [float(sample["value"][1]) for sample in samples]
    assert any(map(math.isfinite, values)), f"{query} gives {values}"


@pytest.mark.parametrize("expression", _EXPRESSIONS.values(), ids=_EXPRESSIONS)
def test_a_rule_names_what_there_is(series_of: SeriesOf, expression: str) -> None:
    assert not faults(expression, series_of)


@pytest.mark.parametrize("page", sorted(_RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_a_runbook_asks_prometheus_for_what_there_is(series_of: SeriesOf, page: Path) -> None:
    blocks = re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL)
    asked = [line for block in blocks for line in block.splitlines()]
    assert asked
    assert not [fault for expression in asked for fault in faults(expression, series_of)]


def test_prometheus_evaluates_every_rule(watched: WatchedStack) -> None:
    rules = watched.prometheus.rules()
    assert len(rules) == len(_EXPRESSIONS)
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}


def test_what_keda_asks_prometheus_for_is_there(series_of: SeriesOf) -> None:
    manifests = install_helm("4.1").template(*COMBINATIONS["gpu-keda"])
    asked = [
        trigger["metadata"]["query"]
        for scaler in of_kind(manifests, "ScaledObject")
        for trigger in scaler["spec"]["triggers"]
        if trigger["type"] == "prometheus"
    ]
    assert asked
    assert not [fault for expression in asked for fault in faults(expression, series_of)]


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("sum(rate(unirig_http_request_total[5m]))", "no metric unirig_http_request_total"),
        ("sum by (path) (unirig_http_requests_total)", "has a label path"),
        ('unirig_http_requests_total{verb="GET"}', "has no label verb"),
        ('unirig_job_failures_total{code="OUT_OF_MEMORY"}', "no unirig_job_failures_total has"),
        ("up / on (job, node) unirig_build_info", "has a label node"),
        ('unirig_ready{job="gateway"}', "no unirig_ready has"),
    ],
)
def test_a_name_that_is_not_there_is_found(series_of: SeriesOf, mistake: str, words: str) -> None:
    assert any(words in fault for fault in faults(mistake, series_of))


def test_targets_have_the_labels_that_a_cluster_gives_them(watched: WatchedStack) -> None:
    (gateway,) = watched.prometheus.series('unirig_build_info{component="gateway"}')
    gateway.pop("instance")
    assert gateway == {
        "__name__": "unirig_build_info",
        "component": "gateway",
        "version": "1.0.0",
        **{"job": "unirig-gateway", "service": "unirig-gateway", "namespace": "rigging"},
        **{"pod": "unirig-gateway-0", "container": "gateway", "endpoint": "metrics"},
    }


def test_no_metric_of_ours_has_a_label_that_targets_have(watched: WatchedStack) -> None:
    ours = {name for name in watched.prometheus.metric_names() if name.startswith("unirig_")}
    renamed = {
        f"{name} {label}"
        for name in ours
        for series in watched.prometheus.series(name)
        for label in series
        if label.startswith("exported_")
    }
    assert ours
    assert not renamed


@pytest.mark.parametrize("name", SERVICES)
def test_promtool_finds_no_fault_with_the_metrics(
    watched: WatchedStack, programs: Programs, name: str
) -> None:
    text = httpx.get(f"http://{watched.address_of(name)}/metrics").text
    done = programs.check("check", "metrics", text=text)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_documentation_names_every_metric_of_ours(watched: WatchedStack) -> None:
    written = (_DOCS / "monitoring.md").read_text()
    suffixes = ("_bucket", "_count", "_sum")
    ours = {
        next((name.removesuffix(s) for s in suffixes if name.endswith(s)), name)
        for name in watched.prometheus.metric_names()
        if name.startswith("unirig_")
    }
    assert {name for name in ours if f"`{name}`" not in written} == set()


def test_metrics_from_elsewhere_are_only_the_gpus(watched: WatchedStack) -> None:
    """All others that are asked for come from this very stack."""
    asked = {
        selector.name
        for expression in [*_EXPRESSIONS.values(), *(query.expression for query in queries())]
        for selector in selectors(expression)
    }
    assert {name for name in asked if name.startswith("DCGM_")} <= gpu_metrics.METRICS.keys()
    assert {name.partition("_")[0].rpartition(":")[2] for name in asked} == {
        *("unirig", "nv", "process", "DCGM", "ALERTS"),
    }
