"""What pods.py makes of manifests; no engine is needed."""

import copy
import re
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm_program import CHART, install_helm
from tests.images.pods import (
    IGNORED_FIELDS,
    IGNORED_KINDS,
    Claim,
    Folder,
    Probe,
    Release,
    UntranslatedError,
    expanded,
    translated,
)

DOCS = Path(__file__).parents[2] / "docs" / "images.md"
FOLDER = Path("/mounted")
VALUES = Path(__file__).parents[1] / "chart" / "values"
# Without a GPU; those that bring nothing of their own.
COMBINATIONS = {
    "laptop": [CHART / "values-laptop.yaml"],
    "cpu": [],
    "http-route": [VALUES / "http-route.yaml"],
    "ingress-tls": [VALUES / "ingress-tls.yaml"],
}

MANIFESTS = list(
    yaml.safe_load_all(
        """
kind: Deployment
metadata: {name: web, namespace: rigging}
spec:
  replicas: 2
  selector: {matchLabels: {part: web}}
  template:
    metadata: {labels: {part: web}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 75
      securityContext:
        {runAsNonRoot: true, runAsUser: 11, runAsGroup: 12, fsGroup: 13,
         seccompProfile: {type: RuntimeDefault}}
      initContainers:
        - name: first
          image: web:1
          args: [prepare]
          securityContext: &confined
            {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true,
             capabilities: {drop: [ALL]}}
      containers:
        - name: main
          image: web:1
          command: [serve, --as, $(NAME)]
          args: [--secret=$(PASSWORD)]
          ports: [{name: http, containerPort: 8000}]
          envFrom: [{configMapRef: {name: settings}}]
          env:
            - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
            - {name: LEVEL, value: "2"}
            - {name: URL, value: "$(NAME):$(PASSWORD) $(LATER) $$(NAME)"}
            - {name: LATER, value: late}
          startupProbe:
            httpGet: {path: /healthz, port: http}
            periodSeconds: 2
            failureThreshold: 60
          readinessProbe:
            exec: {command: [ask, "1"]}
          lifecycle: {preStop: {sleep: {seconds: 5}}}
          resources:
            requests: {cpu: 100m, memory: 64Mi}
            limits: {memory: 256Mi, cpu: 1500m}
          securityContext: *confined
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: data, mountPath: /data}
            - {name: settings, mountPath: /etc/web, readOnly: true}
            - {name: keys, mountPath: /keys, readOnly: true}
      volumes:
        - {name: tmp, emptyDir: {sizeLimit: 64Mi}}
        - {name: data, persistentVolumeClaim: {claimName: web}}
        - {name: settings, configMap: {name: settings}}
        - {name: keys, secret: {secretName: keys, defaultMode: 0440}}
---
kind: StatefulSet
metadata: {name: store, namespace: rigging}
spec:
  serviceName: store-headless
  selector: {matchLabels: {part: store}}
  template:
    metadata: {labels: {part: store}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext: {runAsUser: 21, runAsGroup: 21, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: store
          image: store:1
          ports: [{name: store, containerPort: 7000}]
          securityContext: {capabilities: {drop: [ALL]}}
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
kind: Pod
metadata:
  {name: check, namespace: rigging, labels: {part: check}, annotations: {helm.sh/hook: test}}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  activeDeadlineSeconds: 960
  restartPolicy: Never
  securityContext: {runAsUser: 11, runAsGroup: 11, seccompProfile: {type: RuntimeDefault}}
  containers:
    - {name: check, image: "web:1", securityContext: {capabilities: {drop: [ALL]}}}
---
kind: ConfigMap
metadata: {name: settings, namespace: rigging}
data: {LEVEL: "1", COLOUR: blue}
---
kind: Secret
metadata: {name: keys, namespace: rigging}
data: {password: aHVzaA==}
---
kind: PersistentVolumeClaim
metadata: {name: web, namespace: rigging}
spec: {accessModes: [ReadWriteOnce]}
---
kind: Service
metadata: {name: web, namespace: rigging}
spec:
  selector: {part: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
kind: Service
metadata: {name: store-headless, namespace: rigging}
spec:
  clusterIP: None
  selector: {part: store}
  ports: [{name: store, port: 7000, targetPort: store}]
---
kind: NetworkPolicy
metadata: {name: web, namespace: rigging}
spec: {podSelector: {}}
"""
    )
)


def release(manifests: list[dict[str, Any]] = MANIFESTS) -> Release:
    return translated(manifests, "net", IPv4Network("10.9.0.0/24"), FOLDER)


def arguments(pod: int = 0) -> tuple[str, ...]:
    return release().pods[pod].main.arguments


def changed(path: str, value: object) -> list[dict[str, Any]]:
    """The manifests with one more value; the first key is a kind."""
    manifests = copy.deepcopy(MANIFESTS)
    kind, *keys, last = path.split(".")
    place: Any = next(manifest for manifest in manifests if manifest["kind"] == kind)
    for key in keys:
        place = place[int(key) if key.isdecimal() else key]
    place[last] = value
    return manifests


def test_there_is_a_pod_for_each_replica() -> None:
    names = [pod.name for pod in release().pods]
    assert names == ["web-0", "web-1", "store-0"]
    assert [pod.name for pod in release().tests] == ["check"]


def test_a_pod_runs_as_its_manifest_says() -> None:
    found = arguments()
    for wanted in (
        "--user=11:12",
        "--group-add=13",
        "--cap-drop=all",
        "--read-only",
        "--read-only-tmpfs=false",
        "--security-opt=no-new-privileges",
    ):
        assert wanted in found
    status = release().pods[0].main.status
    assert status["Uid"] == "11 11 11 11"
    assert status["Groups"] == "12 13"
    assert (status["CapEff"], status["NoNewPrivs"], status["Seccomp"]) == ("0" * 16, "1", "2")


def test_what_is_not_asked_for_is_not_confined() -> None:
    assert "--read-only" not in arguments(2)
    assert "--security-opt=no-new-privileges" not in arguments(2)
    assert release().pods[2].main.status["NoNewPrivs"] == "0"


def test_an_init_container_is_confined_and_placed_as_its_pod() -> None:
    (first,) = release().pods[0].init
    assert first.arguments[-2:] == ("web:1", "prepare")
    assert "--user=11:12" in first.arguments
    assert f"--ip={release().pods[0].address}" in first.arguments


def test_limits_are_those_of_the_manifest_and_nothing_swaps() -> None:
    found = arguments()
    assert f"--memory={256 * 1024**2}" in found
    assert f"--memory-swap={256 * 1024**2}" in found
    assert "--cpus=1.500" in found


def test_variables_come_from_where_the_manifest_says_and_later_ones_win() -> None:
    found = dict(
        argument.removeprefix("--env=").split("=", 1)
        for argument in arguments()
        if argument.startswith("--env=")
    )
    assert found == {
        "LEVEL": "2",
        "COLOUR": "blue",
        "NAME": "web-0",
        "PASSWORD": "hush",
        "URL": "web-0:hush $(LATER) $(NAME)",
        "LATER": "late",
    }


def test_a_command_replaces_the_entry_point_and_knows_the_variables() -> None:
    found = arguments()
    assert '--entrypoint=["serve", "--as", "web-0"]' in found
    assert found[-2:] == ("web:1", "--secret=hush")


@pytest.mark.parametrize(
    ("text", "value"),
    [("$(A)-$(A)", "1-1"), ("$(B)", "$(B)"), ("$$(A)", "$(A)"), ("$A ${A} $", "$A ${A} $")],
)
def test_references_are_expanded_as_kubernetes_does(text: str, value: str) -> None:
    assert expanded(text, {"A": "1"}) == value


def test_volumes_are_mounted() -> None:
    found = arguments()
    assert f"--tmpfs=/tmp:rw,mode=0777,notmpcopyup,size={64 * 1024**2}" in found
    assert "--volume=net-web:/data:rw,nocopy" in found
    assert "--volume=/mounted/web-0/settings:/etc/web:ro" in found
    assert release().pods[0].claims == (Claim("net-web", 13),)
    assert release().pods[0].folders == (
        Folder(FOLDER / "web-0" / "settings", {"LEVEL": "1", "COLOUR": "blue"}, 0o644, 13),
        Folder(FOLDER / "web-0" / "keys", {"password": "hush"}, 0o440, 13),
    )


def test_a_stateful_pod_has_its_own_volume() -> None:
    assert release().pods[2].claims == (Claim("net-data-store-0", None),)
    assert "--volume=net-data-store-0:/data:rw,nocopy" in arguments(2)


def test_probes_and_the_end_are_those_of_the_manifest() -> None:
    pod = release().pods[0]
    assert pod.main.probes == {
        "startup": Probe((), 8000, "/healthz", 120, 1),
        "readiness": Probe(("ask", "1"), 0, "", 30, 1),
    }
    assert (pod.grace, pod.main.pause) == (75, 5)
    assert release().tests[0].deadline == 960


def test_every_pod_knows_the_services_by_all_their_names() -> None:
    (proxy,) = release().proxies
    web = [pod.address for pod in release().pods[:2]]
    assert proxy.routes == {80: (f"{web[0]}:8000", f"{web[1]}:8000")}
    store = release().pods[2].address
    for one in [*release().pods, *release().tests]:
        for name in ("web", "web.rigging", "web.rigging.svc", "web.rigging.svc.cluster.local"):
            assert f"--add-host={name}:{proxy.address}" in one.main.arguments
        assert f"--add-host=store-headless:{store}" in one.main.arguments
        assert f"--add-host=store-0.store-headless.rigging.svc:{store}" in one.main.arguments


def test_no_two_have_the_same_address() -> None:
    found = [one.address for one in (*release().pods, *release().tests, *release().proxies)]
    assert len(set(found)) == 5


_MAIN = "Deployment.spec.template.spec.containers.0"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("Deployment.spec.paused", True),
        ("Deployment.spec.template.spec.hostNetwork", True),
        ("Deployment.spec.template.spec.enableServiceLinks", True),
        ("Deployment.spec.template.spec.automountServiceAccountToken", True),
        ("Deployment.spec.template.spec.securityContext.supplementalGroups", [1]),
        ("Deployment.spec.template.spec.securityContext.runAsUser", 0),
        ("Deployment.spec.template.spec.securityContext.seccompProfile", {"type": "Unconfined"}),
        ("Deployment.spec.template.spec.volumes.0.hostPath", {"path": "/"}),
        ("Deployment.spec.template.spec.volumes.0.emptyDir.surprise", 1),
        ("Deployment.spec.template.spec.volumes.1.persistentVolumeClaim.claimName", "other"),
        ("Deployment.spec.template.spec.volumes.2.configMap.name", "other"),
        ("Deployment.spec.template.spec.volumes.2.configMap.items", []),
        (f"{_MAIN}.workingDir", "/app"),
        (f"{_MAIN}.securityContext.privileged", True),
        (f"{_MAIN}.securityContext.capabilities", {"drop": ["ALL"], "add": ["NET_ADMIN"]}),
        (f"{_MAIN}.resources.limits", {"nvidia.com/gpu": 1}),
        (f"{_MAIN}.startupProbe.initialDelaySeconds", 5),
        (f"{_MAIN}.startupProbe.httpGet.scheme", "HTTPS"),
        (f"{_MAIN}.livenessProbe", {"grpc": {"port": 1}}),
        (f"{_MAIN}.lifecycle.preStop", {"exec": {"command": ["stop"]}}),
        (f"{_MAIN}.ports.0.hostPort", 80),
        (f"{_MAIN}.volumeMounts.0.subPath", "sub"),
        (f"{_MAIN}.volumeMounts.0.name", "other"),
        (f"{_MAIN}.envFrom.0.prefix", "WEB_"),
        (f"{_MAIN}.env.0.valueFrom", {"fieldRef": {"fieldPath": "spec.nodeName"}}),
        (f"{_MAIN}.env.1.valueFrom.secretKeyRef.key", "other"),
        (f"{_MAIN}.env.1.valueFrom.secretKeyRef.optional", True),
        ("StatefulSet.spec.volumeClaimTemplates.0.spec.volumeMode", "Block"),
        ("PersistentVolumeClaim.spec.selector", {}),
        ("Service.spec.type", "LoadBalancer"),
        ("Service.spec.clusterIP", "None"),
        ("Pod.metadata.annotations", {"helm.sh/hook": "pre-install"}),
        ("NetworkPolicy.kind", "DaemonSet"),
    ],
)
def test_what_has_no_translation_is_an_error(path: str, value: object) -> None:
    with pytest.raises(UntranslatedError):
        release(changed(path, value))


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_the_whole_chart_is_translated(combination: str) -> None:
    without_gpu = ("--set", "triton.gpu.count=0")
    manifests = install_helm("4.1").template(*COMBINATIONS[combination], options=without_gpu)
    found = release(manifests)
    assert {pod.name.rpartition("-")[0].rpartition("-")[2] for pod in found.pods} >= {
        *("gateway", "sessions", "jobs", "storage", "inference", "nats", "redis")
    }
    assert len(found.tests) == 1


def test_nothing_is_ignored_that_the_chart_has_not() -> None:
    text = "\n".join(file.read_text() for file in (CHART / "templates").rglob("*.*"))
    for kind in IGNORED_KINDS:
        assert f"kind: {kind}\n" in text, kind
    for field in IGNORED_FIELDS:
        assert re.search(rf"\b{field.rpartition('.')[2]}:", text), field


def test_the_docs_list_what_is_ignored() -> None:
    text = DOCS.read_text()
    for name, reason in {**IGNORED_KINDS, **IGNORED_FIELDS}.items():
        assert f"| `{name}` | {reason} |" in text
    _, _, ignored = text.partition("### What of the manifests is ignored\n")
    listed = re.findall(r"^\| `([\w.]+)` \|", ignored, re.MULTILINE)
    assert set(listed) == IGNORED_KINDS.keys() | IGNORED_FIELDS.keys()
