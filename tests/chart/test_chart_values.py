"""helm takes the chart, and the values that it takes are the ones that are documented."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.conftest import COMBINATIONS
from tests.chart.helm_program import CHART, Helm
from tests.chart.manifest_checks import Manifests, named, of_kind

_VALUES = (CHART / "values.yaml").read_text()


@pytest.mark.parametrize("name", list(COMBINATIONS))
def test_lint_finds_nothing(any_helm: Helm, name: str) -> None:
    done = any_helm.lint(*COMBINATIONS[name])
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_helms_render_the_same(any_helm: Helm, combination: str, manifests: Manifests) -> None:
    rendered = any_helm.template(*COMBINATIONS[combination])
    assert _without_secrets(rendered) == _without_secrets(manifests)


def _without_secrets(manifests: Manifests) -> list[dict[str, Any]]:
    # Passwords are made anew by each rendering outside a cluster.
    kept = [manifest for manifest in manifests if manifest["kind"] != "Secret"]
    return sorted(kept, key=lambda m: (m["kind"], m["metadata"]["name"]))


def test_the_chart_can_be_packed(helm: Helm, tmp_path: Path) -> None:
    done = helm.run("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    # Helm keeps each revision in a Secret, which holds 1 MiB.
    assert next(tmp_path.glob("*.tgz")).stat().st_size < 200_000


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("gatway.replicas=3", "gatway"),
        ("gateway.replcas=3", "replcas"),
        ("gateway.env.RPC_TIMEOUT=5", "RPC_TIMEOUT"),
        (
            "gateway.resources.limits.memory=128Mib",
            "resources.limits.memory|does not match pattern",
        ),
        ("engine=neural", "geometric"),
        ("nats.replicas=2", "nats"),
        ("image.tag=latest", "tag"),
        ("triton.gpu.count=0.5", "integer"),
        ("ingress.hosts[0]=rig.example.com", "hosts"),
        ("tracing.endpoint=otel-collector:4317", "endpoint"),
    ],
)
def test_a_mistaken_value_is_named(any_helm: Helm, mistake: str, words: str) -> None:
    assert re.search(words, any_helm.refusal("--set", mistake))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("storage.replicas=2", "storage.volume.accessMode: ReadWriteMany"),
        ("storage.backend=s3", "storage.s3.bucket is needed"),
        ("triton.replicas=2", "triton.models.volume.accessMode: ReadWriteMany"),
        ("nats.enabled=false", "nats.external.url"),
        ("redis.enabled=false", "redis.external.url"),
        ("ingress.enabled=true,httpRoute.enabled=true", "choose one"),
        ("httpRoute.enabled=true", "httpRoute.parentRefs"),
        ("ingress.enabled=true,ingress.tls.enabled=true", "ingress.tls.secretName"),
        ("inference.autoscaling.kind=keda,inference.autoscaling.min=30", "min is above max"),
    ],
)
def test_values_that_do_not_go_together_are_refused(helm: Helm, values: str, words: str) -> None:
    assert words in helm.refusal("--set", values)


def test_every_value_has_a_comment_above_it() -> None:
    undocumented = [
        line
        for above, line in itertools.pairwise(_VALUES.splitlines())
        if re.match(r"\s*\w+: ", line) and not above.lstrip().startswith("#")
    ]
    # The names inside of resources are Kubernetes's own.
    assert {line.split(":")[0].strip() for line in undocumented} == {"requests", "limits"}


def test_the_schema_names_the_values_that_there_are() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    schema["properties"].pop("global")
    assert not list(_differences(schema, yaml.safe_load(_VALUES)))


def _differences(schema: Any, values: Any, path: str = "") -> Iterator[str]:
    if "properties" not in schema:
        return
    known = schema["properties"].keys()
    yield from (f"{path}.{name}" for name in known ^ values.keys())
    for name in known & values.keys():
        yield from _differences(schema["properties"][name], values[name], f"{path}.{name}")


def test_the_laptop_has_no_triton_and_asks_for_no_gpu(helm: Helm) -> None:
    manifests = helm.template(*COMBINATIONS["laptop"])
    assert not [m for m in manifests if "triton" in m["metadata"]["name"]]
    assert "nvidia.com/gpu" not in json.dumps(manifests)


def test_secrets_of_our_own_making_outlive_the_release(defaults: Manifests) -> None:
    for secret in of_kind(defaults, "Secret", "PersistentVolumeClaim"):
        assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_a_url_holds_the_password_of_its_secret(defaults: Manifests) -> None:
    for name in ("unirig-nats", "unirig-redis"):
        secret = named(defaults, "Secret", name)
        assert secret is not None
        assert f":{secret['stringData']['password']}@{name}:" in secret["stringData"]["url"]


def test_no_secret_is_made_where_all_come_from_outside(helm: Helm) -> None:
    manifests = helm.template(*COMBINATIONS["s3-external"])
    # Redis is given as a URL there, which is kept in a Secret.
    assert [m["metadata"]["name"] for m in of_kind(manifests, "Secret")] == ["unirig-redis"]


def test_no_password_is_in_a_config_map_or_a_pod(defaults: Manifests) -> None:
    passwords = [
        value for secret in of_kind(defaults, "Secret") for value in secret["stringData"].values()
    ]
    others = json.dumps([m for m in defaults if m["kind"] != "Secret"])
    assert not [password for password in passwords if password in others]
