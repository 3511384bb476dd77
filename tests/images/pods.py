"""What a cluster makes of the chart's manifests, as arguments of `podman run`.

Nothing is started here. Whatever stands in a workload, claim or Service is either translated or
has its reason in IGNORED_FIELDS; anything else raises UntranslatedError, so that nothing is left
out unnoticed.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from itertools import islice
from pathlib import Path
from typing import Any

from tests.chart.manifest_checks import Manifest, Manifests, label, named, of_kind, quantity

IGNORED_KINDS = {
    "HTTPRoute": "the gateway's Service is published instead",
    "HorizontalPodAutoscaler": "nothing is scaled",
    "Ingress": "the gateway's Service is published instead",
    "NetworkPolicy": "the engine's network enforces none",
    "PodDisruptionBudget": "no node is drained",
    "PriorityClass": "nothing is scheduled",
    "PrometheusRule": "no Prometheus runs",
    "ScaledObject": "nothing is scaled",
    "ServiceAccount": "there is no API server, and no pod gets a token",
    "ServiceMonitor": "no Prometheus runs",
}
IGNORED_FIELDS = {
    "claim.accessModes": "all pods are on one node",
    "claim.resources": "volumes have no size",
    "claim.storageClassName": "volumes are folders of the engine's",
    "container.imagePullPolicy": "images were built here",
    "container.resources.requests": "nothing is scheduled",
    "pod.affinity": "nothing is scheduled",
    "pod.imagePullSecrets": "images were built here",
    "pod.nodeSelector": "nothing is scheduled",
    "pod.priorityClassName": "nothing is scheduled",
    "pod.restartPolicy": "nothing is started anew: what ends by itself is a failure",
    "pod.runtimeClassName": "the engine has one runtime",
    "pod.serviceAccountName": "there is no API server",
    "pod.tolerations": "nothing is scheduled",
    "pod.topologySpreadConstraints": "nothing is scheduled",
    "securityContext.fsGroupChangePolicy": "a volume's group is set when it is made",
    "service.publishNotReadyAddresses": "names lead to pods whether or not they are ready",
    "service.ports.appProtocol": "bytes are passed on as they come",
    "workload.podManagementPolicy": "all pods start at once",
    "workload.progressDeadlineSeconds": "nothing is rolled out",
    "workload.selector": "pods come from the template itself",
    "workload.strategy": "nothing is rolled out: all pods end, then all start",
}
_KINDS = {
    *("Deployment", "StatefulSet", "Pod"),
    *("ConfigMap", "Secret", "PersistentVolumeClaim", "Service"),
}
_FIRST_ADDRESS = 63
_PROBES = ("startup", "liveness", "readiness")
_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")
_NO_CAPABILITIES = "0" * 16


class UntranslatedError(Exception):
    """The manifests have what has no translation; the text says what and where."""


@dataclass(frozen=True)
class Probe:
    """A command to be run in the container or, where there is none, a port and path to be asked.

    seconds: how long it may fail before the kubelet acts. timeout: of one HTTP request, seconds.
    """

    command: tuple[str, ...]
    port: int
    path: str
    seconds: float
    timeout: float


@dataclass(frozen=True)
class Container:
    """One container to run.

    arguments: of `podman run`, all but its name and whether to wait for its end.
    status: what Linux must say of its first process, by the names in /proc/PID/status.
    probes: by kind, in the order startup, liveness, readiness.
    pause: before SIGTERM, seconds.
    """

    name: str
    arguments: tuple[str, ...]
    status: Mapping[str, str]
    probes: Mapping[str, Probe]
    pause: float


@dataclass(frozen=True)
class Claim:
    """A volume that outlives its pods. group: who may write to it, besides root."""

    volume: str
    group: int | None


@dataclass(frozen=True)
class Folder:
    """Files that a container finds mounted: a ConfigMap's or a Secret's. group: whose they are."""

    path: Path
    texts: Mapping[str, str]
    mode: int
    group: int | None


@dataclass(frozen=True)
class Pod:
    """Init containers, which run one after the other, and then the one container that stays.

    address: its IP address. grace: from the decision to end it to SIGKILL, seconds. deadline: for
    all that it does, seconds.
    """

    name: str
    address: str
    init: tuple[Container, ...]
    main: Container
    claims: tuple[Claim, ...]
    folders: tuple[Folder, ...]
    grace: float
    deadline: float | None


@dataclass(frozen=True)
class Proxy:
    """A Service with an IP address of its own. routes: from its ports to "address:port" of pods."""

    service: str
    address: str
    routes: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True)
class Release:
    """All that is to run. tests: the pods of `helm test`."""

    pods: tuple[Pod, ...]
    tests: tuple[Pod, ...]
    proxies: tuple[Proxy, ...]


def translated(manifests: Manifests, network: str, subnet: IPv4Network, folder: Path) -> Release:
    """network: the engine's; the names of volumes begin with it. subnet: its addresses, of which
    the first few are left to others. folder: for mounted files.

    Raises UntranslatedError.
    """
    for manifest in manifests:
        if manifest["kind"] not in _KINDS | IGNORED_KINDS.keys():
            raise UntranslatedError(f"{label(manifest)}: the kind is unknown")
    for claim in of_kind(manifests, "PersistentVolumeClaim"):
        _check_claim(claim)
    addresses = (str(address) for address in islice(subnet.hosts(), _FIRST_ADDRESS, None))
    workloads = of_kind(manifests, "Deployment", "StatefulSet", "Pod")
    planned = [pod for manifest in workloads for pod in _planned(manifest, addresses)]
    services = [
        _service(manifest, planned, addresses) for manifest in of_kind(manifests, "Service")
    ]
    cluster = _Cluster(manifests, _hosts(planned, services), network, folder)
    pods = [(pod.is_test, _pod(pod, cluster)) for pod in planned]
    return Release(
        pods=tuple(pod for is_test, pod in pods if not is_test),
        tests=tuple(pod for is_test, pod in pods if is_test),
        proxies=tuple(
            Proxy(service.name, service.address, service.routes)
            for service in services
            if service.address
        ),
    )


@contextmanager
def _taking(content: Mapping[str, Any], place: str) -> Iterator[Callable[..., Any]]:
    """Gives out fields by name, each once; raises UntranslatedError for what is left at the end."""
    rest = dict(content)
    yield rest.pop
    for name, value in rest.items():
        if f"{place}.{name}" not in IGNORED_FIELDS:
            raise UntranslatedError(f"{place}.{name}: {value!r}")


def _only(place: str, value: object, wanted: object) -> None:
    """Raises UntranslatedError for any but the one value that needs no translation."""
    if value != wanted:
        raise UntranslatedError(f"{place}: {value!r}")


# Which pods there will be, and which Services lead to them.


@dataclass(frozen=True)
class _Planned:
    """A pod before its translation. claims: of its own, by the names of its volumes."""

    name: str
    address: str
    namespace: str
    labels: Mapping[str, str]
    spec: Manifest
    is_test: bool
    subdomain: str
    claims: Mapping[str, str]

    @property
    def ports(self) -> dict[str, int]:
        return _ports(self.spec["containers"][0].get("ports", []))


def _planned(manifest: Manifest, addresses: Iterator[str]) -> Iterator[_Planned]:
    """The pods that a workload makes, or the pod itself."""
    metadata, spec = manifest["metadata"], manifest["spec"]
    name, namespace = metadata["name"], metadata["namespace"]
    if manifest["kind"] == "Pod":
        _only(f"{name}: the hook", metadata.get("annotations", {}).get("helm.sh/hook"), "test")
        labels = metadata["labels"]
        yield _Planned(name, next(addresses), namespace, labels, spec, True, "", {})
        return
    with _taking(spec, "workload") as take:
        replicas, template = take("replicas", 1), take("template")
        subdomain, claims = take("serviceName", ""), take("volumeClaimTemplates", [])
    for claim in claims:
        _check_claim(claim)
    for index in range(replicas):
        pod = f"{name}-{index}"
        own = {claim["metadata"]["name"]: f"{claim['metadata']['name']}-{pod}" for claim in claims}
        labels, content = template["metadata"]["labels"], template["spec"]
        yield _Planned(pod, next(addresses), namespace, labels, content, False, subdomain, own)


def _check_claim(claim: Manifest) -> None:
    with _taking(claim["spec"], "claim"):
        pass


@dataclass(frozen=True)
class _Service:
    """address: of its own; empty where it is headless. routes: from its ports to "address:port"."""

    name: str
    namespace: str
    address: str
    pods: list[_Planned]
    routes: Mapping[int, tuple[str, ...]]


def _service(manifest: Manifest, planned: list[_Planned], addresses: Iterator[str]) -> _Service:
    name = manifest["metadata"]["name"]
    with _taking(manifest["spec"], "service") as take:
        is_headless = take("clusterIP", "") == "None"
        selector, ports = take("selector"), take("ports")
    pods = [pod for pod in planned if selector.items() <= pod.labels.items()]
    routes = {}
    for port in ports:
        with _taking(port, "service.ports") as take:
            take("name")
            number, target = take("port"), take("targetPort")
        found = [(pod.address, pod.ports.get(target, target)) for pod in pods]
        if is_headless and any(own != number for _, own in found):
            raise UntranslatedError(f"service {name}: headless, but its port {number} is another's")
        routes[number] = tuple(f"{address}:{own}" for address, own in found)
    own_address = "" if is_headless else next(addresses)
    return _Service(name, manifest["metadata"]["namespace"], own_address, pods, routes)


def _hosts(planned: list[_Planned], services: list[_Service]) -> list[str]:
    """What the cluster's DNS would know, as "name:address"."""
    hosts = []
    for service in services:
        found = [service.address] if service.address else [pod.address for pod in service.pods]
        hosts += [(service.name, service.namespace, address) for address in found]
    for pod in planned:
        if pod.subdomain:
            hosts.append((f"{pod.name}.{pod.subdomain}", pod.namespace, pod.address))
    ends = ("", ".{0}", ".{0}.svc", ".{0}.svc.cluster.local")
    return [
        f"{name}{end.format(namespace)}:{address}"
        for name, namespace, address in hosts
        for end in ends
    ]


# From a planned pod to containers.


@dataclass(frozen=True)
class _Cluster:
    """What pods refer to."""

    manifests: Manifests
    hosts: list[str]
    network: str
    folder: Path

    def texts(self, kind: str, name: str) -> dict[str, str]:
        """What a ConfigMap or Secret holds."""
        found = named(self.manifests, kind, name)
        if found is None:
            raise UntranslatedError(f"{kind}/{name} is not among the manifests")
        data = found.get("data", {})
        if kind == "Secret":
            data = {key: base64.b64decode(value).decode() for key, value in data.items()}
        return {**data, **found.get("stringData", {})}

    def text(self, kind: str, reference: Mapping[str, str]) -> str:
        """One value of it."""
        with _taking(reference, f"{kind} reference") as take:
            name, key = take("name"), take("key")
        texts = self.texts(kind, name)
        if key not in texts:
            raise UntranslatedError(f"{kind}/{name} has no {key}")
        return texts[key]


@dataclass(frozen=True)
class _Volume:
    """argument: of `podman run`, but for {path} and {access}. What has to be there for it."""

    argument: str
    claim: Claim | None = None
    folder: Folder | None = None


def _pod(planned: _Planned, cluster: _Cluster) -> Pod:
    with _taking(planned.spec, "pod") as take:
        _only("pod.automountServiceAccountToken", take("automountServiceAccountToken", True), False)
        # Otherwise there were variables for every Service.
        _only("pod.enableServiceLinks", take("enableServiceLinks", True), False)
        grace = take("terminationGracePeriodSeconds", 30)
        deadline = take("activeDeadlineSeconds", None)
        security = take("securityContext", {})
        sources = take("volumes", [])
        init, mains = take("initContainers", []), take("containers")
    _only(f"{planned.name}: the number of containers", len(mains), 1)
    group = security.get("fsGroup")
    volumes = {source["name"]: _volume(source, planned, group, cluster) for source in sources}
    for name, claim in planned.claims.items():
        volumes[name] = _claimed(claim, group, cluster)
    place = [
        f"--network={cluster.network}",
        f"--ip={planned.address}",
        # The same again after a second start, so that nobody's ARP table is out of date.
        f"--mac-address={_hardware_address(planned.address)}",
        f"--hostname={planned.name}",
        *(f"--add-host={host}" for host in cluster.hosts),
    ]
    return Pod(
        name=planned.name,
        address=planned.address,
        init=tuple(_container(one, planned, security, volumes, place, cluster) for one in init),
        main=_container(mains[0], planned, security, volumes, place, cluster),
        claims=tuple(volume.claim for volume in volumes.values() if volume.claim),
        folders=tuple(volume.folder for volume in volumes.values() if volume.folder),
        grace=grace,
        deadline=deadline,
    )


def _hardware_address(address: str) -> str:
    """One of those for private use, made from the IP address."""
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def _volume(source: Manifest, planned: _Planned, group: int | None, cluster: _Cluster) -> _Volume:
    with _taking(source, "volume") as take:
        name = take("name")
        empty, claim = take("emptyDir", None), take("persistentVolumeClaim", None)
        settings, secret = take("configMap", None), take("secret", None)
    if empty is not None:
        with _taking(empty, "volume.emptyDir") as take:
            # In memory, whatever the medium: what does not fit fails at once, not by eviction.
            take("medium", "")
            size = take("sizeLimit", None)
        limit = f",size={int(quantity(size))}" if size else ""
        return _Volume(f"--tmpfs={{path}}:{{access}},mode=0777,notmpcopyup{limit}")
    if claim is not None:
        with _taking(claim, "volume.persistentVolumeClaim") as take:
            claim_name = take("claimName")
        if named(cluster.manifests, "PersistentVolumeClaim", claim_name) is None:
            raise UntranslatedError(
                f"PersistentVolumeClaim/{claim_name} is not among the manifests"
            )
        return _claimed(claim_name, group, cluster)
    kind, content = ("ConfigMap", settings) if settings is not None else ("Secret", secret)
    with _taking(content, f"volume.{kind}") as take:
        texts = cluster.texts(kind, take("name" if kind == "ConfigMap" else "secretName"))
        mode = take("defaultMode", 0o644)
    path = cluster.folder / planned.name / name
    return _Volume(f"--volume={path}:{{path}}:ro", folder=Folder(path, texts, mode, group))


def _claimed(claim: str, group: int | None, cluster: _Cluster) -> _Volume:
    volume = f"{cluster.network}-{claim}"
    # Nothing of the image's is copied into it, nor its owner taken over.
    return _Volume(f"--volume={volume}:{{path}}:{{access}},nocopy", claim=Claim(volume, group))


def _container(
    content: Manifest,
    planned: _Planned,
    pod_security: Manifest,
    volumes: Mapping[str, _Volume],
    place: list[str],
    cluster: _Cluster,
) -> Container:
    with _taking(content, "container") as take:
        name, image = take("name"), take("image")
        environment = _environment(take("envFrom", []), take("env", []), planned, cluster)
        command, arguments = take("command", []), take("args", [])
        mounts = [_mounted(mount, volumes) for mount in take("volumeMounts", [])]
        confinement, status = _confinement(pod_security, take("securityContext", {}))
        limits = _limits(take("resources", {}))
        ports = _ports(take("ports", []))
        probes = {kind: take(f"{kind}Probe", None) for kind in _PROBES}
        pause = _pause(take("lifecycle", {}))
    command, arguments = (
        [expanded(text, environment) for text in texts] for texts in (command, arguments)
    )
    return Container(
        name=f"{planned.name}-{name}",
        arguments=(
            *place,
            *confinement,
            *limits,
            *mounts,
            *(f"--env={key}={value}" for key, value in environment.items()),
            *([f"--entrypoint={json.dumps(command)}"] if command else []),
            image,
            *arguments,
        ),
        status=status,
        probes={kind: _probe(probe, ports) for kind, probe in probes.items() if probe},
        pause=pause,
    )


def _environment(
    sources: list[Manifest], variables: list[Manifest], planned: _Planned, cluster: _Cluster
) -> dict[str, str]:
    environment: dict[str, str] = {}
    for source in sources:
        with _taking(source, "container.envFrom") as take:
            reference = take("configMapRef")
        with _taking(reference, "container.envFrom.configMapRef") as take:
            environment |= cluster.texts("ConfigMap", take("name"))
    fields = {"metadata.name": planned.name, "metadata.namespace": planned.namespace}
    for variable in variables:
        with _taking(variable, "container.env") as take:
            name, value, source = take("name"), take("value", ""), take("valueFrom", {})
        with _taking(source, "container.env.valueFrom") as take:
            secret, setting = take("secretKeyRef", None), take("configMapKeyRef", None)
            own = take("fieldRef", {"fieldPath": None})
        with _taking(own, "container.env.valueFrom.fieldRef") as take:
            field = take("fieldPath")
        if secret:
            value = cluster.text("Secret", secret)
        elif setting:
            value = cluster.text("ConfigMap", setting)
        elif field:
            if field not in fields:
                raise UntranslatedError(f"container.env {name}: the field {field}")
            value = fields[field]
        else:
            value = expanded(value, environment)
        environment[name] = value
    return environment


def expanded(text: str, environment: Mapping[str, str]) -> str:
    """text with its $(NAME)s replaced; an unknown one stays, and $$ stands for one $."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[1] is None else environment.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


def _mounted(mount: Manifest, volumes: Mapping[str, _Volume]) -> str:
    with _taking(mount, "container.volumeMounts") as take:
        name, path, read_only = take("name"), take("mountPath"), take("readOnly", False)
    if name not in volumes:
        raise UntranslatedError(f"container.volumeMounts: no volume {name}")
    return volumes[name].argument.format(path=path, access="ro" if read_only else "rw")


def _confinement(pod: Manifest, own: Manifest) -> tuple[list[str], dict[str, str]]:
    """Arguments, and what Linux then says of a process."""
    with _taking({**pod, **own}, "securityContext") as take:
        user, group = take("runAsUser"), take("runAsGroup")
        fs_group = take("fsGroup", None)
        if take("runAsNonRoot", False) and user == 0:
            raise UntranslatedError("securityContext.runAsNonRoot: the user is 0")
        # The engine's own profile, which is in force unless another one is named.
        _only("securityContext.seccompProfile", take("seccompProfile"), {"type": "RuntimeDefault"})
        _only("securityContext.capabilities", take("capabilities"), {"drop": ["ALL"]})
        is_read_only = take("readOnlyRootFilesystem", False)
        may_gain = take("allowPrivilegeEscalation", True)
    arguments = [f"--user={user}:{group}", "--cap-drop=all"]
    if fs_group is not None:
        arguments.append(f"--group-add={fs_group}")
    if is_read_only:
        # No folders in memory beside the pod's own, either.
        arguments += ["--read-only", "--read-only-tmpfs=false"]
    if not may_gain:
        arguments.append("--security-opt=no-new-privileges")
    groups = sorted({group} | ({fs_group} if fs_group is not None else set()))
    return arguments, {
        "Uid": " ".join([str(user)] * 4),
        "Gid": " ".join([str(group)] * 4),
        "Groups": " ".join(str(one) for one in groups),
        "CapEff": _NO_CAPABILITIES,
        "CapBnd": _NO_CAPABILITIES,
        "NoNewPrivs": "0" if may_gain else "1",
        # Filtered.
        "Seccomp": "2",
    }


def _limits(resources: Manifest) -> list[str]:
    with _taking(resources, "container.resources") as take:
        limits = take("limits", {})
    with _taking(limits, "container.resources.limits") as take:
        memory, cpu = take("memory", None), take("cpu", None)
    arguments = []
    if memory is not None:
        number = int(quantity(memory))
        # As much with swap: none.
        arguments += [f"--memory={number}", f"--memory-swap={number}"]
    if cpu is not None:
        arguments.append(f"--cpus={quantity(cpu)}")
    return arguments


def _ports(ports: list[Manifest]) -> dict[str, int]:
    found = {}
    for port in ports:
        with _taking(port, "container.ports") as take:
            found[take("name")] = take("containerPort")
    return found


def _probe(probe: Manifest, ports: Mapping[str, int]) -> Probe:
    with _taking(probe, "probe") as take:
        seconds = take("periodSeconds", 10) * take("failureThreshold", 3)
        timeout = take("timeoutSeconds", 1)
        request, execution = take("httpGet", None), take("exec", None)
    if execution is not None:
        with _taking(execution, "probe.exec") as take:
            return Probe(tuple(take("command")), 0, "", seconds, timeout)
    if request is None:
        raise UntranslatedError(f"probe: {probe!r}")
    with _taking(request, "probe.httpGet") as take:
        port, path = take("port"), take("path")
    return Probe((), ports.get(port, port), path, seconds, timeout)


def _pause(lifecycle: Manifest) -> float:
    with _taking(lifecycle, "container.lifecycle") as take:
        before = take("preStop", {})
    with _taking(before, "container.lifecycle.preStop") as take:
        return float(take("sleep", {"seconds": 0})["seconds"])
