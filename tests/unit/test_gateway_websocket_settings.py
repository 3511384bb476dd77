"""What the gateway's server is told about WebSockets."""

from services.gateway.server import _config
from services.gateway.settings import GatewaySettings


async def _app(*_: object) -> None: ...


def test_sockets_are_pinged_every_20_seconds() -> None:
    config = _config(GatewaySettings(), _app)
    assert config.ws_ping_interval == 20
    assert config.ws_ping_timeout == 20
