"""What a security scanner says of the chart, and the few points where we disagree with it.

That every pod has a network policy is checked in test_chart_network: here the combinations of
values lie beside each other, and the policies of one would do for the pods of another.
"""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.conftest import COMBINATIONS
from tests.chart.helm_program import Helm

_CHECKOV = Path(__file__).parents[2] / ".venv-policy" / "bin" / "checkov"

# Reviewed: what it would have otherwise, and why it is as it is.
_DECLINED = {
    "CKV_K8S_11": "CPU limits: they slow pods down on an idle node; requests share a busy one",
    "CKV_K8S_15": "always pulling: tags are versions, and pods start without the registry",
    "CKV_K8S_35": "secrets as files: services read their settings from the environment",
    "CKV_K8S_43": "digests: values of the chart; they are known once images are published",
}
# Of the pod of `helm test`, which runs once and serves nobody.
_DECLINED_FOR_THE_TEST = {
    "CKV_K8S_8": "a liveness probe",
    "CKV_K8S_9": "a readiness probe",
}


@pytest.fixture(scope="module")
def failed(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """The check and the kind of every failure in any combination of values."""
    assert _CHECKOV.exists(), "checkov is missing: make .venv-policy/ready"
    folder = tmp_path_factory.mktemp("policy")
    for name, values in COMBINATIONS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(helm.template(*values)))
    done = subprocess.run(
        [
            *(_CHECKOV, "--directory", folder, "--framework", "kubernetes"),
            *("--skip-download", "--quiet", "--compact", "--output", "json"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("{"), done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 1000
    assert report["summary"]["parsing_errors"] == 0
    return {
        (failure["check_id"], failure["resource"].partition(".")[0])
        for failure in report["results"]["failed_checks"]
    }


def test_checkov_finds_what_we_decline_and_nothing_else(failed: set[tuple[str, str]]) -> None:
    assert {check for check, _ in failed} == _DECLINED.keys() | _DECLINED_FOR_THE_TEST.keys()
    kinds = {kind for check, kind in failed if check in _DECLINED_FOR_THE_TEST}
    assert kinds == {"Pod"}
