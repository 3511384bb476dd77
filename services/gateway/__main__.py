"""python -m services.gateway"""

import asyncio

from services.common.logs import configure_logs
from services.common.metrics import serve_metrics
from services.common.process import stop_event
from services.common.tracing import tracing
from services.gateway.server import serving
from services.gateway.settings import GatewaySettings


async def main() -> None:
    settings = GatewaySettings()
    configure_logs("gateway", settings.log_level)
    stopped = stop_event()
    async with serving(settings) as gateway:
        serve_metrics("gateway", settings.bind_host, settings.metrics_port, lambda: gateway.ready)
        await stopped.wait()


with tracing("gateway"):
    asyncio.run(main())
