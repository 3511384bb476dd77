"""dcgm-exporter's metrics, which nothing without a GPU can export: from its documentation.

Names and labels are those of its default counters in Kubernetes (etc/default-counters.csv). The
values are made up, so what comes of them shows that a query fits the names, and no more.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from tests.monitoring.dashboards import NAMESPACE

# By name: how full, in the unit of the exporter. Percent, MiB, watts, degrees Celsius, a share.
METRICS = {
    "DCGM_FI_DEV_GPU_UTIL": 37,
    "DCGM_FI_DEV_FB_USED": 21504,
    "DCGM_FI_DEV_FB_FREE": 59392,
    "DCGM_FI_DEV_POWER_USAGE": 312.5,
    "DCGM_FI_DEV_GPU_TEMP": 48,
    "DCGM_FI_DEV_XID_ERRORS": 0,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.21,
}
LABELS = {
    "gpu": "0",
    "UUID": "GPU-00000000-0000-0000-0000-000000000000",
    "pci_bus_id": "00000000:01:00.0",
    "device": "nvidia0",
    "modelName": "NVIDIA H100 80GB HBM3",
    "Hostname": "node-1",
    "DCGM_FI_DRIVER_VERSION": "550.144.03",
    "container": "triton",
    "namespace": NAMESPACE,
    "pod": "unirig-triton-0",
}


def exposition() -> str:
    """What the exporter would answer for one GPU that Triton has."""
    labels = ",".join(f'{name}="{value}"' for name, value in LABELS.items())
    return "".join(
        f"# TYPE {name} gauge\n{name}{{{labels}}} {value}\n" for name, value in METRICS.items()
    )


def scrape_config(address: str) -> dict[str, Any]:
    """As its ServiceMonitor has it: without honorLabels, so that the pod's labels are exported_."""
    labels = {"namespace": "gpu-operator", "pod": "dcgm-exporter-0", "container": "exporter"}
    return {
        "job_name": "dcgm-exporter",
        "static_configs": [{"targets": [address], "labels": labels}],
    }


@contextmanager
def served() -> Iterator[str]:
    """host:port of a server of these metrics, for as long as the context lasts."""
    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(exposition().encode())

    def log_message(self, *_: object) -> None:
        """Scrapes are not worth a line."""
