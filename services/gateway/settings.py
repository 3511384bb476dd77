"""What the gateway reads from its environment."""

import ipaddress
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from services.common.settings import ServiceSettings


def _comma_separated(value: object) -> object:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _network(value: str) -> str:
    return str(ipaddress.ip_network(value, strict=False))


def _origin(value: str) -> str:
    return value.rstrip("/").lower()


Networks = Annotated[
    tuple[Annotated[str, BeforeValidator(_network)], ...],
    NoDecode,
    BeforeValidator(_comma_separated),
]
Origins = Annotated[
    tuple[Annotated[str, BeforeValidator(_origin)], ...],
    NoDecode,
    BeforeValidator(_comma_separated),
]


class GatewaySettings(ServiceSettings):
    """The gateway's own settings; lists are comma-separated."""

    # The public web port; 0 takes a free one.
    http_port: int = 8080
    sessions_address: str = "sessions:50051"
    jobs_address: str = "jobs:50051"
    storage_address: str = "storage:50051"
    # The deadline of a gRPC call that carries no file, seconds.
    rpc_timeout_seconds: float = 5.0
    # An upload that sends nothing for this long is given up, seconds.
    upload_idle_seconds: float = 60.0
    # An upload or download that takes longer than this in all is given up, seconds.
    transfer_timeout_seconds: float = 3600.0
    # Networks (CIDR) of the proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.
    trusted_proxies: Networks = ()
    # Web pages of other origins that may call the API with cookies (CORS) ...
    cors_origins: Origins = ()
    # ... and that may open the WebSocket, beside the gateway's own origin.
    allowed_origins: Origins = ()
    # Whether downloads need the session's cookie, where the session's id is enough otherwise.
    results_require_cookie: bool = False
    # How often a WebSocket looks up its session's latest job, in case a message got lost, seconds.
    websocket_refresh_seconds: float = 15.0
