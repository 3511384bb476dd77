"""Every manifest is what Kubernetes takes: its schemas, its controllers, and our own checks."""

import copy
import functools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from tests.chart.manifest_checks import Manifest, Manifests, faults, label, named

_SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
_VERSIONS = ("1.31.0", "1.34.0", "1.37.0")
_CUSTOM = ("HTTPRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor")
_TESTS = Path(__file__).parents[1]


@functools.cache
def _validator(version: str, api: str, kind: str) -> jsonschema.Draft7Validator:
    """FileNotFoundError where Kubernetes has no such kind."""
    folder = _SCHEMAS / f"v{version}-local-strict"
    group, _, api_version = api.rpartition("/")
    parts = [kind.lower(), *([group.partition(".")[0]] if group else []), api_version]
    schema = json.loads((folder / f"{'-'.join(parts)}.json").read_text())
    return jsonschema.Draft7Validator(schema, registry=_definitions(version))


@functools.cache
def _definitions(version: str) -> "Registry[Any]":
    folder = _SCHEMAS / f"v{version}-local-strict"

    def retrieve(uri: str) -> "Resource[Any]":
        content = json.loads((folder / uri.rpartition("/")[2]).read_text())
        return DRAFT7.create_resource(content)

    return Registry(retrieve=retrieve)


@pytest.mark.parametrize("version", _VERSIONS)
def test_every_manifest_fits_the_strict_schemas_of_kubernetes(
    manifests: Manifests, version: str
) -> None:
    found = [
        f"{label(manifest)} {'.'.join(map(str, error.absolute_path))}: {error.message}"
        for manifest in manifests
        if manifest["kind"] not in _CUSTOM
        for error in _validator(version, manifest["apiVersion"], manifest["kind"]).iter_errors(
            manifest
        )
    ]
    assert not found, "\n".join(found)


def test_the_schemas_refuse_an_unknown_field(defaults: Manifests) -> None:
    manifest = _copy_of(defaults, "Deployment", "unirig-gateway")
    manifest["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    assert list(_validator("1.34.0", "apps/v1", "Deployment").iter_errors(manifest))


def _custom_faults(resources: Manifests) -> str:
    done = subprocess.run(
        ["node", "chart/check_custom_resources.mjs"],
        cwd=_TESTS,
        input=json.dumps(resources),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout or done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(
    not (_TESTS / "node_modules" / "@kubernetes-models").is_dir(),
    reason="the definitions of custom resources are missing: npm ci in tests/",
)
def test_custom_resources_fit_their_definitions(manifests: Manifests) -> None:
    resources = [manifest for manifest in manifests if manifest["kind"] in _CUSTOM]
    assert not _custom_faults(resources)
    if resources:
        broken = copy.deepcopy(resources[:1])
        broken[0]["spec"] = {"endpoints": 1, "groups": 1, "parentRefs": 1, "triggers": 1}
        assert _custom_faults(broken)


def test_nothing_dangles_and_nothing_is_out_of_range(manifests: Manifests) -> None:
    assert not faults(manifests)


def _copy_of(manifests: Manifests, kind: str, name: str) -> Manifest:
    found = named(manifests, kind, name)
    assert found is not None, f"{kind}/{name} is not there"
    return copy.deepcopy(found)


def _pod(manifest: Manifest) -> Manifest:
    return manifest["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def _container(manifest: Manifest) -> Manifest:
    return _pod(manifest)["containers"][0]  # type: ignore[no-any-return]


def _set(holder: Manifest, **values: Any) -> None:
    holder.update(values)


def _become_autoscaler(manifest: Manifest, target: str) -> None:
    reference = {"kind": "Deployment", "name": target}
    manifest.update(
        apiVersion="autoscaling/v2",
        kind="HorizontalPodAutoscaler",
        spec={"minReplicas": 1, "maxReplicas": 2, "scaleTargetRef": reference},
    )


# What a careless change could do to a manifest of the defaults, and the word that names the fault.
_BREAKS: dict[str, tuple[str, Callable[[Manifest], None], str]] = {
    "a quantity that is none": (
        "Deployment/unirig-gateway",
        lambda m: _set(_container(m)["resources"]["limits"], memory="512Mib"),
        "is no quantity",
    ),
    "a request above its limit": (
        "Deployment/unirig-gateway",
        lambda m: _set(_container(m)["resources"]["requests"], memory="2Gi"),
        "more memory than its limit",
    ),
    "half a GPU": (
        "Deployment/unirig-triton",
        lambda m: _set(_container(m)["resources"]["limits"], **{"nvidia.com/gpu": "0.5"}),
        "no whole number",
    ),
    "a port out of range": (
        "Deployment/unirig-gateway",
        lambda m: _set(_container(m)["ports"][0], containerPort=80000),
        "out of range",
    ),
    "a long port name": (
        "Deployment/unirig-gateway",
        lambda m: _set(_container(m)["ports"][0], name="the-public-web-port"),
        "is not allowed",
    ),
    "a selector beside its pods": (
        "Deployment/unirig-gateway",
        lambda m: _set(m["spec"]["selector"]["matchLabels"], tier="front"),
        "does not select its own pods",
    ),
    "an undefined volume": (
        "Deployment/unirig-gateway",
        lambda m: _set(_pod(m), volumes=[]),
        "undefined volumes",
    ),
    "a Service of nobody": (
        "Service/unirig-jobs",
        lambda m: _set(m["spec"]["selector"], tier="back"),
        "selects no pod",
    ),
    "a target port of nobody": (
        "Service/unirig-jobs",
        lambda m: _set(m["spec"]["ports"][0], targetPort="web"),
        "does not open",
    ),
    "a probe of nobody": (
        "Deployment/unirig-jobs",
        lambda m: _set(_container(m)["readinessProbe"]["httpGet"], port="web"),
        "which is not open",
    ),
    "a ConfigMap that is not there": (
        "Deployment/unirig-jobs",
        lambda m: _set(_container(m)["envFrom"][0]["configMapRef"], name="job"),
        "needs ConfigMap/job",
    ),
    "a key that is not there": (
        "Secret/unirig-redis",
        lambda m: m["stringData"].pop("url"),
        "needs the key url",
    ),
    "a ServiceAccount that is not there": (
        "Deployment/unirig-jobs",
        lambda m: _set(_pod(m), serviceAccountName="job"),
        "needs ServiceAccount/job",
    ),
    "a claim that is not there": (
        "PersistentVolumeClaim/unirig-storage",
        lambda m: _set(m["metadata"], name="disk"),
        "needs PersistentVolumeClaim/unirig-storage",
    ),
    "a budget with both fields": (
        "PodDisruptionBudget/unirig-jobs",
        lambda m: _set(m["spec"], minAvailable=1),
        "has both",
    ),
    "a label that YAML reads as a boolean": (
        "Service/unirig-jobs",
        lambda m: _set(m["metadata"]["labels"], stateless=True),
        "is no text",
    ),
    "an autoscaler beside replicas": (
        "ServiceAccount/unirig-jobs",
        lambda m: _become_autoscaler(m, "unirig-jobs"),
        "says replicas although",
    ),
    "an autoscaler of nothing": (
        "ServiceAccount/unirig-jobs",
        lambda m: _become_autoscaler(m, "job"),
        "which is not there",
    ),
    "a policy that lets in to a closed port": (
        "NetworkPolicy/unirig-jobs",
        lambda m: _set(m["spec"]["ingress"][0]["ports"][0], port=50052),
        "which is not open",
    ),
    "an address of nobody": (
        "ConfigMap/unirig-gateway",
        lambda m: _set(m["data"], JOBS_ADDRESS="job:50051"),
        "leads to job",
    ),
    "an image without a version": (
        "Deployment/unirig-jobs",
        lambda m: _set(_container(m), image="registry:5000/unirig-jobs"),
        "has no version",
    ),
    "a pod killed in its grace": (
        "Deployment/unirig-jobs",
        lambda m: _set(_pod(m), terminationGracePeriodSeconds=12),
        "is killed before",
    ),
    "a name that is there twice": (
        "Service/unirig-jobs",
        lambda m: _set(m["metadata"], name="unirig-sessions"),
        "is there twice",
    ),
}


@pytest.mark.parametrize("mistake", _BREAKS)
def test_our_own_checks_find(defaults: Manifests, mistake: str) -> None:
    where, breaks, words = _BREAKS[mistake]
    kind, _, name = where.partition("/")
    broken = _copy_of(defaults, kind, name)
    breaks(broken)
    others = [manifest for manifest in defaults if label(manifest) != where]
    found = faults([*others, broken])
    assert any(words in fault for fault in found), found
