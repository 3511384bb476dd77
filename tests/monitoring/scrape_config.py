"""What a Prometheus in the cluster would make of the chart's ServiceMonitors, with other addresses.

The labels of each target are those that the Prometheus Operator gives it: job and service are the
Service's name, and then its namespace, the port's name, the pod and the container.
"""

from collections.abc import Mapping
from typing import Any

from tests.chart.manifest_checks import Manifest, Manifests, label, of_kind, pods


def scrape_configs(manifests: Manifests, addresses: Mapping[str, str]) -> list[dict[str, Any]]:
    """One configuration a ServiceMonitor. addresses: host:port of each component's metrics."""
    return [
        _scrape_config(monitor, manifests, addresses)
        for monitor in of_kind(manifests, "ServiceMonitor")
    ]


def _scrape_config(
    monitor: Manifest, manifests: Manifests, addresses: Mapping[str, str]
) -> dict[str, Any]:
    spec = monitor["spec"]
    # What else there may be would change the labels.
    assert spec.keys() == {"selector", "endpoints"}, label(monitor)
    (endpoint,) = spec["endpoints"]
    assert endpoint.keys() == {"port", "interval"}, label(monitor)
    (service,) = [
        service
        for service in of_kind(manifests, "Service")
        if spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    ]
    (port,) = [port for port in service["spec"]["ports"] if port["name"] == endpoint["port"]]
    (container,) = [
        container["name"]
        for _, labels, pod in pods(manifests)
        if service["spec"]["selector"].items() <= labels.items()
        for container in pod["containers"]
        if port["targetPort"] in [opened["name"] for opened in container["ports"]]
    ]
    name = service["metadata"]["name"]
    component = service["metadata"]["labels"]["app.kubernetes.io/component"]
    return {
        "job_name": name,
        "static_configs": [
            {
                "targets": [addresses[component]],
                "labels": {
                    "namespace": service["metadata"]["namespace"],
                    "service": name,
                    "pod": f"{name}-0",
                    "container": container,
                    "endpoint": endpoint["port"],
                },
            }
        ],
    }
