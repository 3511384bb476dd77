"""What the service does by itself: watch its back end, and sweep it."""

import asyncio

import structlog

from services.common.errors import ApiError
from services.common.rpc import RpcServer
from services.storage.back_end import BackEnd
from services.storage.metrics import DISK_FREE, DISK_TOTAL, DISK_USED

log = structlog.get_logger(__name__)

_WATCH_SECONDS = 5
_SWEEP_SECONDS = 3600


async def watch_regularly(back_end: BackEnd, server: RpcServer) -> None:
    """Keeps the service's readiness equal to the back end's, until cancelled."""
    while True:
        await _watch(back_end, server)
        await asyncio.sleep(_WATCH_SECONDS)


async def _watch(back_end: BackEnd, server: RpcServer) -> None:
    try:
        await back_end.check()
        space = await back_end.space()
    except (ApiError, OSError) as error:
        log.warning("the back end cannot be used", error=str(error))
        is_usable = False
    else:
        DISK_TOTAL.set(space.total)
        DISK_USED.set(space.used)
        DISK_FREE.set(space.free)
        is_usable = True
    if is_usable != server.ready:
        log.info("readiness changed", ready=is_usable)
        await server.set_ready(is_usable)


async def sweep_regularly(back_end: BackEnd) -> None:
    """At once, then every hour until cancelled."""
    while True:
        try:
            await back_end.sweep()
        except (ApiError, OSError) as error:
            log.warning("sweeping failed", error=str(error))
        await asyncio.sleep(_SWEEP_SECONDS)
