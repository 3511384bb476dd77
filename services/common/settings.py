"""What every service reads from its environment (12-factor): one class a service extends this."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """Settings that all services share; each is the environment variable of the same name."""

    # A wrong setting may hold a secret: its value stays out of the error.
    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    # Where gRPC, metrics and the web listen.
    bind_host: str = "0.0.0.0"  # noqa: S104 - a pod listens on its own address
    # /metrics, /healthz and /readyz.
    metrics_port: int = 9090
    nats_url: str = "nats://nats:4222"
    # Copies of every stream; a cluster of three keeps three.
    nats_replicas: int = Field(1, ge=1, le=5)
    # How long SIGTERM waits for work in progress, seconds.
    shutdown_grace_seconds: float = 20.0


class RpcServiceSettings(ServiceSettings):
    """A service that is called by gRPC."""

    grpc_port: int = 50051
