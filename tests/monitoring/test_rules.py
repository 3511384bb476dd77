"""The alert rules: valid, tested one by one, and explained to whoever is called at night."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm_program import CHART
from tests.monitoring.prometheus_program import Programs

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_FILE = CHART / "files" / "rules" / "unirig.yaml"
_GROUPS = yaml.safe_load(_FILE.read_text())["groups"]
_ALERTS = [rule for group in _GROUPS for rule in group["rules"] if "alert" in rule]
_TESTS = sorted(_HERE.glob("*.test.yaml"))


def test_the_rules_are_valid(programs: Programs) -> None:
    done = programs.check("check", "rules", str(_FILE))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", _TESTS, ids=lambda file: file.name)
def test_alerts_fire_when_they_should_and_only_then(programs: Programs, file: Path) -> None:
    done = programs.check("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", _ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_is_tested_both_ways(alert: dict[str, Any]) -> None:
    seen = [
        bool(check["exp_samples"])
        for file in _TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for check in test["promql_expr_test"]
        if f'alertname="{alert["alert"]}"' in check["expr"]
    ]
    assert {True, False} <= set(seen)


@pytest.mark.parametrize("alert", _ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in ("warning", "critical")
    annotations = alert["annotations"]
    assert annotations["summary"]
    assert annotations["description"]
    assert annotations["runbook_url"] == f"docs/runbooks/{alert['alert']}.md"


@pytest.mark.parametrize("alert", _ALERTS, ids=lambda alert: alert["alert"])
def test_a_text_names_only_labels_that_the_alert_has(alert: dict[str, Any]) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
    grouped = re.search(r"\bby \(([^)]*)\)", alert["expr"])
    if "namespace:" in alert["expr"]:
        kept = {"namespace"}
    else:
        assert grouped
        kept = set(re.split(r",\s*", grouped[1]))
    assert named <= kept


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    pages = {page.stem for page in (_ROOT / "docs" / "runbooks").glob("*.md")}
    assert pages == {alert["alert"] for alert in _ALERTS}


@pytest.mark.parametrize("alert", _ALERTS, ids=lambda alert: alert["alert"])
def test_a_page_says_what_it_means_how_to_look_and_how_to_mend(alert: dict[str, Any]) -> None:
    page = (_ROOT / alert["annotations"]["runbook_url"]).read_text()
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    assert headings == [alert["alert"], "What it means", "How to look", "How to mend"]
    assert "```" in page.partition("## How to look")[2].partition("## How to mend")[0]


def test_the_documentation_lists_every_alert() -> None:
    written = (_ROOT / "docs" / "monitoring.md").read_text()
    linked = re.findall(r"\[(\w+)\]\(runbooks/\1\.md\)", written)
    assert sorted(linked) == sorted(alert["alert"] for alert in _ALERTS)
