"""Only the connections of docs/architecture.md's picture are allowed."""

from collections.abc import Iterator

from tests.chart.conftest import COMBINATIONS
from tests.chart.helm_program import Helm
from tests.chart.manifest_checks import Manifest, Manifests, of_kind

_PART = "app.kubernetes.io/component"
_SERVICES = ("gateway", "sessions", "jobs", "storage", "inference")
_PICTURE = {
    ("gateway", "sessions", 50051),
    ("gateway", "jobs", 50051),
    ("gateway", "storage", 50051),
    ("gateway", "nats", 4222),
    ("sessions", "redis", 6379),
    ("sessions", "nats", 4222),
    ("jobs", "redis", 6379),
    ("jobs", "nats", 4222),
    ("storage", "nats", 4222),
    ("inference", "nats", 4222),
    ("inference", "storage", 50051),
    ("inference", "triton", 8001),
    ("nats", "nats", 6222),
    ("test", "gateway", 8080),
}


def _policies(manifests: Manifests) -> Iterator[tuple[str, Manifest]]:
    for policy in of_kind(manifests, "NetworkPolicy"):
        part = policy["spec"]["podSelector"]["matchLabels"].get(_PART)
        if part:
            yield part, policy["spec"]


def _ways_out(manifests: Manifests) -> set[tuple[str, str, int]]:
    return {
        (part, peer["podSelector"]["matchLabels"][_PART], port["port"])
        for part, spec in _policies(manifests)
        for rule in spec.get("egress", [])
        for peer in rule.get("to", [])
        if "podSelector" in peer
        for port in rule["ports"]
    }


def _ways_in(manifests: Manifests) -> set[tuple[str, str, int]]:
    return {
        (peer["podSelector"]["matchLabels"][_PART], part, port["port"])
        for part, spec in _policies(manifests)
        for rule in spec.get("ingress", [])
        for peer in rule.get("from", [])
        if "podSelector" in peer
        for port in rule["ports"]
    }


def test_pods_reach_what_the_picture_shows_and_no_more(defaults: Manifests) -> None:
    assert _ways_out(defaults) == _PICTURE


def test_whoever_may_call_is_let_in(defaults: Manifests) -> None:
    # The gateway is open to all by default.
    assert _ways_in(defaults) == _PICTURE - {("test", "gateway", 8080)}


def test_a_part_without_a_policy_of_its_own_reaches_nothing(defaults: Manifests) -> None:
    denied = [
        policy["spec"]
        for policy in of_kind(defaults, "NetworkPolicy")
        if policy["spec"].keys() == {"podSelector", "policyTypes"}
        and _PART not in policy["spec"]["podSelector"]["matchLabels"]
    ]
    assert [spec["policyTypes"] for spec in denied] == [["Ingress", "Egress"]]
    workloads = of_kind(defaults, "Deployment", "StatefulSet")
    parts = {m["spec"]["template"]["metadata"]["labels"][_PART] for m in workloads}
    assert parts <= {part for part, _ in _policies(defaults)}


def _ways_outside(manifests: Manifests) -> set[tuple[str, str, int]]:
    return {
        (part, peer["ipBlock"]["cidr"], port["port"])
        for part, spec in _policies(manifests)
        for rule in spec.get("egress", [])
        for peer in rule.get("to", [])
        if "ipBlock" in peer
        for port in rule["ports"]
    }


def test_only_triton_leaves_the_cluster_and_only_to_fetch(defaults: Manifests) -> None:
    assert _ways_outside(defaults) == {("triton", "0.0.0.0/0", 443)}


def test_servers_outside_are_reached_by_those_who_need_them(helm: Helm) -> None:
    redis = ("192.0.2.0/24", 6380)
    assert _ways_outside(helm.template(*COMBINATIONS["s3-external"])) == {
        ("storage", "0.0.0.0/0", 9000),
        *((part, *redis) for part in ("sessions", "jobs")),
        *((part, "0.0.0.0/0", 4222) for part in _SERVICES),
        *((part, "198.51.100.0/24", 443) for part in _SERVICES),
    }


def test_a_collector_in_the_cluster_is_reached_by_those_who_send_it_spans(
    defaults: Manifests, helm: Helm
) -> None:
    assert not _ways_to_namespaces(defaults)
    assert _ways_to_namespaces(helm.template(*COMBINATIONS["gpu-keda"])) == {
        ("triton", "observability", 4318),
        *((part, "observability", 4317) for part in _SERVICES),
    }


def _ways_to_namespaces(manifests: Manifests) -> set[tuple[str, str, int]]:
    return {
        (
            part,
            peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
            port["port"],
        )
        for part, spec in _policies(manifests)
        for rule in spec.get("egress", [])
        for peer in rule.get("to", [])
        if "namespaceSelector" in peer
        for port in rule["ports"]
    }


def test_the_gateway_can_be_closed_to_all_but_the_ingress(helm: Helm) -> None:
    manifests = helm.template(*COMBINATIONS["ingress-tls"])
    (rule,) = [
        rule
        for part, spec in _policies(manifests)
        if part == "gateway"
        for rule in spec["ingress"]
        if rule["ports"][0]["port"] == 8080
    ]
    sources = [peer.get("namespaceSelector", peer.get("podSelector")) for peer in rule["from"]]
    assert sources[0]["matchLabels"] == {"kubernetes.io/metadata.name": "ingress"}
    assert [source["matchLabels"][_PART] for source in sources[1:]] == ["test"]
