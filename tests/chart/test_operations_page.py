"""What operators copy from the pages names what the chart makes and values that it has."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm_program import CHART
from tests.chart.manifest_checks import Manifest, Manifests, label, of_kind

_ROOT = Path(__file__).parents[2]
_OPERATIONS = "docs/operations.md"
_OBJECT = re.compile(r"\b(?:deployment|statefulset|service|secret)/unirig[a-z-]*[a-z]\b")
_POD = re.compile(r"\b(?:pod/|exec )(unirig-[a-z]+)-0\b")
_CLAIM = re.compile(r"^open_volume ([a-z0-9-]+) ([0-9]+)$", re.MULTILINE)
_VALUE = re.compile(r"(?:--set |`)([a-z]+(?:\.[A-Za-z_]+)+)")


@pytest.mark.parametrize("page", ["README.md", _OPERATIONS])
def test_every_object_that_a_command_names_is_made(page: str, defaults: Manifests) -> None:
    named = set(_OBJECT.findall(_text(page)))
    assert named
    assert named <= {label(manifest).lower() for manifest in defaults}


def test_every_pod_that_a_command_names_has_a_number(defaults: Manifests) -> None:
    named = set(_POD.findall(_text(_OPERATIONS)))
    assert named
    assert named <= {manifest["metadata"]["name"] for manifest in of_kind(defaults, "StatefulSet")}


def test_every_claim_is_opened_by_the_user_whose_files_it_holds(defaults: Manifests) -> None:
    users = {
        claim: str(pod["securityContext"]["runAsUser"])
        for manifest in of_kind(defaults, "Deployment", "StatefulSet")
        for pod in [manifest["spec"]["template"]["spec"]]
        for claim in _claims(manifest, pod)
    }
    opened = _CLAIM.findall(_text(_OPERATIONS))
    assert {claim for claim, _ in opened} == {
        "data-unirig-nats-0",
        "data-unirig-redis-0",
        "unirig-storage",
    }
    assert all(users[claim] == user for claim, user in opened)


@pytest.mark.parametrize("page", ["README.md", _OPERATIONS])
def test_every_value_that_is_named_is_one(page: str) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = {path for path in _VALUE.findall(_text(page)) if path.partition(".")[0] in values}
    assert named
    assert not [path for path in sorted(named) if not _is_in(values, path.split("."))]


def _text(page: str) -> str:
    return (_ROOT / page).read_text()


def _claims(workload: Manifest, pod: Manifest) -> list[str]:
    """The claims that its pod uses; of a StatefulSet's pods, the first one."""
    templates = workload["spec"].get("volumeClaimTemplates", ())
    claims = (volume.get("persistentVolumeClaim") for volume in pod["volumes"])
    return [
        *(
            f"{template['metadata']['name']}-{workload['metadata']['name']}-0"
            for template in templates
        ),
        *(claim["claimName"] for claim in claims if claim),
    ]


def _is_in(values: Any, path: list[str]) -> bool:
    """Whether the values have the path; the last part may be the beginning of a name."""
    for part in path[:-1]:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return isinstance(values, dict) and any(name.startswith(path[-1]) for name in values)
