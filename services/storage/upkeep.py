"""What the service does by itself: watch its back end, and sweep it."""

import asyncio

import structlog

from services.common.errors import ApiError
from services.storage.back_end import BackEnd
from services.storage.metrics import DISK_FREE, DISK_TOTAL, DISK_USED

log = structlog.get_logger(__name__)

_WATCH_SECONDS = 5
_SWEEP_SECONDS = 3600


class Watch:
    """Asks the back end again and again; is_usable tells how the last time went."""

    def __init__(self, back_end: BackEnd) -> None:
        self._back_end = back_end
        self.is_usable = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._back_end.check()
                space = await self._back_end.space()
            except (ApiError, OSError) as error:
                self.is_usable = False
                log.warning("the back end cannot be used", error=str(error))
            else:
                self.is_usable = True
                DISK_TOTAL.set(space.total)
                DISK_USED.set(space.used)
                DISK_FREE.set(space.free)
            await asyncio.sleep(_WATCH_SECONDS)


async def sweep_regularly(back_end: BackEnd) -> None:
    """At once, then every hour until cancelled."""
    while True:
        try:
            await back_end.sweep()
        except (ApiError, OSError) as error:
            log.warning("sweeping failed", error=str(error))
        await asyncio.sleep(_SWEEP_SECONDS)
