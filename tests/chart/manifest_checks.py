"""What an API server, or the first minutes of a release, would reject and schemas let pass.

Each check takes all manifests of a release and yields a line for each fault. Names that begin with
"outside-" are of objects that the operator brings.
"""

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

Manifest = dict[str, Any]
Manifests = list[Manifest]

_WORKLOADS = ("Deployment", "StatefulSet", "Job", "DaemonSet")
_UNITS = {
    **{"": Decimal(1), "m": Decimal("0.001")},
    **{letter: Decimal(1000**power) for power, letter in enumerate("kMGT", start=1)},
    **{f"{letter}i": Decimal(1024**power) for power, letter in enumerate("KMGTPE", start=1)},
}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|[KMGTPE]i)?")
_PORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_CPU_OR_MEMORY = ("cpu", "memory", "ephemeral-storage")


def quantity(text: object) -> Decimal:
    """The number that a quantity of Kubernetes means. ValueError where it is none."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no quantity")
    return Decimal(match[1]) * _UNITS[match[2] or ""]


def of_kind(manifests: Manifests, *kinds: str) -> Iterator[Manifest]:
    return (manifest for manifest in manifests if manifest["kind"] in kinds)


def named(manifests: Manifests, kind: str, name: str) -> Manifest | None:
    return next((m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name), None)


def label(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def pods(manifests: Manifests) -> Iterator[tuple[str, Manifest, Manifest]]:
    """The name of its workload, the labels and the spec of every pod that will be."""
    for manifest in manifests:
        if manifest["kind"] == "Pod":
            yield label(manifest), manifest["metadata"]["labels"], manifest["spec"]
        elif manifest["kind"] in _WORKLOADS:
            template = manifest["spec"]["template"]
            yield label(manifest), template["metadata"]["labels"], template["spec"]


def containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def selected(manifests: Manifests, selector: dict[str, str]) -> list[tuple[str, Manifest]]:
    """The workload's name and spec of every pod with these labels."""
    return [
        (workload, spec)
        for workload, labels, spec in pods(manifests)
        if selector.items() <= labels.items()
    ]


def container_ports(spec: Manifest) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for container in spec["containers"]
        for port in container.get("ports", [])
    }


def names(manifests: Manifests) -> Iterator[str]:
    seen = set()
    for manifest in manifests:
        name = label(manifest)
        if (manifest["apiVersion"], name) in seen:
            yield f"{name} is there twice"
        seen.add((manifest["apiVersion"], name))
        if not _DNS_LABEL.fullmatch(manifest["metadata"]["name"]):
            yield f"{name} is not a valid name"
        if len(name.partition("/")[2]) > 52 and manifest["kind"] == "StatefulSet":
            yield f"{name} leaves no room for the names of its pods' revisions"


def texts(manifests: Manifests) -> Iterator[str]:
    """Labels, annotations, data and environment are strings: no numbers and no YAML booleans."""
    for manifest in manifests:
        metadata = [manifest["metadata"]]
        if manifest["kind"] in _WORKLOADS:
            metadata.append(manifest["spec"]["template"]["metadata"])
        places = [(entry, key) for entry in metadata for key in ("labels", "annotations")]
        places += [(manifest, key) for key in ("data", "stringData")]
        for holder, key in places:
            for name, value in (holder.get(key) or {}).items():
                if not isinstance(name, str) or not isinstance(value, str):
                    yield f"{label(manifest)} {key} {name}: {value!r} is no text"
        for name, value in manifest["metadata"].get("labels", {}).items():
            if not re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", str(value)):
                yield f"{label(manifest)} label {name}: {value!r} is not allowed"
    for workload, _, spec in pods(manifests):
        for container in containers(spec):
            for variable in container.get("env", []):
                if not isinstance(variable.get("value", ""), str):
                    yield f"{workload} env {variable['name']} is no text"


def resources(manifests: Manifests) -> Iterator[str]:
    for workload, _, spec in pods(manifests):
        for container in containers(spec):
            given = container.get("resources", {})
            place = f"{workload} {container['name']}"
            requests, limits = given.get("requests", {}), given.get("limits", {})
            for name, value in [*requests.items(), *limits.items()]:
                try:
                    number = quantity(value)
                except ValueError as error:
                    yield f"{place} {name}: {error}"
                    continue
                if name not in _CPU_OR_MEMORY and number % 1:
                    yield f"{place} {name}: {value} is no whole number"
            for name in requests.keys() & limits.keys():
                try:
                    if quantity(requests[name]) > quantity(limits[name]):
                        yield f"{place} requests more {name} than its limit"
                except ValueError:
                    continue
            for name in requests.keys() - limits.keys():
                if name not in _CPU_OR_MEMORY:
                    yield f"{place} {name} is requested without a limit"
            if "memory" not in limits or not {"cpu", "memory"} <= requests.keys():
                yield f"{place} needs requests of CPU and memory and a limit of memory"
        for volume in spec.get("volumes", []):
            size = (volume.get("emptyDir") or {}).get("sizeLimit")
            if "emptyDir" in volume and size is None:
                yield f"{workload} volume {volume['name']} has no size"
            if size is not None and not _QUANTITY.fullmatch(str(size)):
                yield f"{workload} volume {volume['name']}: {size!r} is no quantity"
    for claim in of_kind(manifests, "PersistentVolumeClaim"):
        size = claim["spec"]["resources"]["requests"]["storage"]
        if not _QUANTITY.fullmatch(str(size)):
            yield f"{label(claim)}: {size!r} is no quantity"


def ports(manifests: Manifests) -> Iterator[str]:
    for workload, _, spec in pods(manifests):
        seen = set()
        for container in spec["containers"]:
            for port in container.get("ports", []):
                if not 1 <= port["containerPort"] <= 65535:
                    yield f"{workload} port {port['containerPort']} is out of range"
                if not _PORT_NAME.fullmatch(port["name"]):
                    yield f"{workload} port name {port['name']!r} is not allowed"
                if port["name"] in seen:
                    yield f"{workload} port name {port['name']!r} is there twice"
                seen.add(port["name"])
    for service in of_kind(manifests, "Service"):
        for port in service["spec"]["ports"]:
            if not 1 <= port["port"] <= 65535 or not _PORT_NAME.fullmatch(port["name"]):
                yield f"{label(service)} port {port['name']} {port['port']} is not allowed"


def volumes(manifests: Manifests) -> Iterator[str]:
    for workload, _, spec in pods(manifests):
        defined = {volume["name"] for volume in spec.get("volumes", [])}
        owner = named(manifests, *workload.split("/", 1))
        claims = (owner or {}).get("spec", {}).get("volumeClaimTemplates", [])
        defined |= {claim["metadata"]["name"] for claim in claims}
        mounted = set()
        for container in containers(spec):
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            if len(paths) != len(set(paths)):
                yield f"{workload} {container['name']} mounts two volumes in one place"
            mounted |= {mount["name"] for mount in container.get("volumeMounts", [])}
        if mounted - defined:
            yield f"{workload} mounts undefined volumes: {sorted(mounted - defined)}"
        if defined - mounted:
            yield f"{workload} mounts nowhere: {sorted(defined - mounted)}"


def selectors(manifests: Manifests) -> Iterator[str]:
    for manifest in of_kind(manifests, "Deployment", "StatefulSet"):
        wanted = manifest["spec"]["selector"]["matchLabels"]
        if not wanted.items() <= manifest["spec"]["template"]["metadata"]["labels"].items():
            yield f"{label(manifest)} does not select its own pods"
        if len(selected(manifests, wanted)) != 1:
            yield f"{label(manifest)} selects pods of another workload"
    for service in of_kind(manifests, "Service"):
        if not selected(manifests, service["spec"]["selector"]):
            yield f"{label(service)} selects no pod"
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        if {"minAvailable", "maxUnavailable"} <= budget["spec"].keys():
            yield f"{label(budget)} has both minAvailable and maxUnavailable"
        if not selected(manifests, budget["spec"]["selector"]["matchLabels"]):
            yield f"{label(budget)} selects no pod"
    for monitor in of_kind(manifests, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        found = [
            service
            for service in of_kind(manifests, "Service")
            if wanted.items() <= service["metadata"]["labels"].items()
        ]
        if len(found) != 1:
            yield f"{label(monitor)} selects {len(found)} Services"
        offered = {port["name"] for service in found for port in service["spec"]["ports"]}
        for endpoint in monitor["spec"]["endpoints"]:
            if endpoint["port"] not in offered:
                yield f"{label(monitor)} reads from no port {endpoint['port']}"


def target_ports(manifests: Manifests) -> Iterator[str]:
    for service in of_kind(manifests, "Service"):
        for workload, spec in selected(manifests, service["spec"]["selector"]):
            open_ports = container_ports(spec)
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                if target not in open_ports and target not in open_ports.values():
                    yield f"{label(service)} targets {target}, which {workload} does not open"
    for workload, _, spec in pods(manifests):
        for container in spec["containers"]:
            own = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = container.get(kind, {})
                port = probe.get("httpGet", probe.get("tcpSocket", {})).get("port")
                if port is not None and port not in own and port not in own.values():
                    yield f"{workload} {kind} asks port {port}, which is not open"


def references(manifests: Manifests) -> Iterator[str]:
    """ConfigMaps, Secrets, their keys, claims, ServiceAccounts and PriorityClasses."""
    for workload, _, spec in pods(manifests):
        for kind, name, key in _references(spec):
            if name.startswith("outside-"):
                continue
            found = named(manifests, kind, name)
            if found is None:
                yield f"{workload} needs {kind}/{name}"
            elif key and key not in {**found.get("data", {}), **found.get("stringData", {})}:
                yield f"{workload} needs the key {key} of {kind}/{name}"


def _references(spec: Manifest) -> Iterator[tuple[str, str, str | None]]:
    if spec.get("serviceAccountName"):
        yield "ServiceAccount", spec["serviceAccountName"], None
    if spec.get("priorityClassName"):
        yield "PriorityClass", spec["priorityClassName"], None
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"], None
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"], None
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], None
    for container in containers(spec):
        for source in container.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"], None
        for variable in container.get("env", []):
            value = variable.get("valueFrom", {})
            if "secretKeyRef" in value:
                yield "Secret", value["secretKeyRef"]["name"], value["secretKeyRef"]["key"]
            if "configMapKeyRef" in value:
                yield "ConfigMap", value["configMapKeyRef"]["name"], value["configMapKeyRef"]["key"]


def autoscalers(manifests: Manifests) -> Iterator[str]:
    seen = set()
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject"):
        spec = scaler["spec"]
        least = spec.get("minReplicas", spec.get("minReplicaCount", 0))
        most = spec.get("maxReplicas", spec.get("maxReplicaCount", 100))
        if least > most or (least < 1 and scaler["kind"] == "HorizontalPodAutoscaler"):
            yield f"{label(scaler)} goes from {least} to {most}"
        name = spec["scaleTargetRef"]["name"]
        target = named(manifests, spec["scaleTargetRef"].get("kind", "Deployment"), name)
        if target is None:
            yield f"{label(scaler)} scales {name}, which is not there"
            continue
        if name in seen:
            yield f"{name} is scaled by two"
        seen.add(name)
        if "replicas" in target["spec"]:
            yield f"{label(target)} says replicas although {label(scaler)} scales it"
        on_cpu = any(
            metric.get("resource", {}).get("name") == "cpu" for metric in spec.get("metrics", [])
        )
        for container in target["spec"]["template"]["spec"]["containers"]:
            if on_cpu and "cpu" not in container["resources"].get("requests", {}):
                yield f"{label(scaler)} is on CPU, of which {container['name']} requests none"
        yield from _triggers(scaler)


# Parameters of KEDA's triggers: required, optional. Its CRD takes any.
_KEDA = {
    "nats-jetstream": (
        {"natsServerMonitoringEndpoint", "stream", "consumer", "account"},
        {"lagThreshold", "activationLagThreshold", "useHttps"},
    ),
    "prometheus": (
        {"serverAddress", "query", "threshold"},
        {"activationThreshold", "ignoreNullValues", "namespace", "unsafeSsl", "timeout"},
    ),
}


def _triggers(scaler: Manifest) -> Iterator[str]:
    for trigger in scaler["spec"].get("triggers", []):
        required, optional = _KEDA[trigger["type"]]
        given = trigger["metadata"]
        if required - given.keys() or given.keys() - required - optional:
            yield f"{label(scaler)} {trigger['type']}: wrong parameters {sorted(given)}"
        for name, value in given.items():
            if not isinstance(value, str):
                yield f"{label(scaler)} {trigger['type']} {name} is no text"


def routes(manifests: Manifests) -> Iterator[str]:
    back_ends = [
        (
            label(ingress),
            path["backend"]["service"]["name"],
            *path["backend"]["service"]["port"].values(),
        )
        for ingress in of_kind(manifests, "Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    back_ends += [
        (label(route), back_end["name"], back_end["port"])
        for route in of_kind(manifests, "HTTPRoute")
        for rule in route["spec"]["rules"]
        for back_end in rule["backendRefs"]
    ]
    for place, name, port in back_ends:
        service = named(manifests, "Service", name)
        if service is None:
            yield f"{place} leads to {name}, which is not there"
        elif all(port not in (p["name"], p["port"]) for p in service["spec"]["ports"]):
            yield f"{place} leads to port {port}, which {name} has not"


def network_policies(manifests: Manifests) -> Iterator[str]:
    """Policies and their peers select pods that are there, and name ports that these open."""
    for policy in of_kind(manifests, "NetworkPolicy"):
        spec = policy["spec"]
        own = selected(manifests, spec["podSelector"].get("matchLabels", {}))
        if not own:
            yield f"{label(policy)} selects no pod"
        open_ports = {port for _, pod in own for port in container_ports(pod).values()}
        for rule in spec.get("ingress", []):
            yield from _peers(policy, manifests, rule.get("from", []))
            for port in rule["ports"]:
                if port["port"] not in open_ports:
                    yield f"{label(policy)} lets in to port {port['port']}, which is not open"
        for rule in spec.get("egress", []):
            yield from _peers(policy, manifests, rule.get("to", []))
            for peer in rule.get("to", []):
                wanted = peer.get("podSelector", {}).get("matchLabels")
                for workload, pod in selected(manifests, wanted) if wanted else []:
                    for port in rule["ports"]:
                        if port["port"] not in container_ports(pod).values():
                            yield f"{label(policy)} lets out to {workload}:{port['port']}: not open"


def _peers(policy: Manifest, manifests: Manifests, peers: Manifests) -> Iterator[str]:
    for peer in peers:
        wanted = peer.get("podSelector", {}).get("matchLabels")
        if wanted and not selected(manifests, wanted):
            yield f"{label(policy)} names pods that are not there: {wanted}"


def addresses(manifests: Manifests) -> Iterator[str]:
    """host:port in settings lead to a Service of the release with that port."""
    for settings in of_kind(manifests, "ConfigMap"):
        for name, value in settings.get("data", {}).items():
            if not name.endswith("_ADDRESS"):
                continue
            if name == "TRITON_ADDRESS" and settings["data"]["ENGINE"] != "unirig":
                continue
            host, _, port = value.partition(":")
            service = named(manifests, "Service", host)
            if service is None:
                yield f"{label(settings)} {name} leads to {host}, which is not there"
            elif int(port) not in [p["port"] for p in service["spec"]["ports"]]:
                yield f"{label(settings)} {name} leads to port {port}, which {host} has not"


def pod_security(manifests: Manifests) -> Iterator[str]:
    """Pod Security "restricted", and our own: read-only roots, no tokens, no latest images."""
    for workload, _, spec in pods(manifests):
        security = spec.get("securityContext", {})
        if not security.get("runAsNonRoot") or not security.get("runAsUser"):
            yield f"{workload} may run as root"
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{workload} has no seccomp profile"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{workload} gets a token of Kubernetes"
        if spec.get("enableServiceLinks") is not False:
            yield f"{workload} gets variables for all Services"
        if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{workload} shares the host's namespaces"
        for volume in spec.get("volumes", []):
            if "hostPath" in volume:
                yield f"{workload} mounts a folder of the host"
        for container in containers(spec):
            place, own = f"{workload} {container['name']}", container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
                yield f"{place} may gain privileges"
            if own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{place} keeps capabilities"
            if not own.get("readOnlyRootFilesystem"):
                yield f"{place} may write to its image"
            image = container["image"].partition("@")[0]
            tag = image.rpartition(":")[2] if ":" in image.rpartition("/")[2] else ""
            if tag in ("", "latest"):
                yield f"{place} runs {image}, which has no version"


def termination(manifests: Manifests) -> Iterator[str]:
    """SIGKILL comes after the pause before SIGTERM and the service's own grace."""
    for workload, _, spec in pods(manifests):
        for container in spec["containers"]:
            pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {})
            own = 0.0
            for source in container.get("envFrom", []):
                settings = named(manifests, "ConfigMap", source["configMapRef"]["name"])
                data = settings["data"] if settings else {}
                own = float(data.get("SHUTDOWN_GRACE_SECONDS", 0))
            if pause.get("seconds", 0) + own >= spec.get("terminationGracePeriodSeconds", 30):
                yield f"{workload} is killed before its grace of {own} s is over"


CHECKS: tuple[Callable[[Manifests], Iterator[str]], ...] = (
    names,
    texts,
    resources,
    ports,
    volumes,
    selectors,
    target_ports,
    references,
    autoscalers,
    routes,
    network_policies,
    addresses,
    pod_security,
    termination,
)


def faults(manifests: Manifests) -> list[str]:
    """All that any check finds."""
    return [fault for check in CHECKS for fault in check(manifests)]
