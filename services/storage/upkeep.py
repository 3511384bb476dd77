"""What the service does by itself: watch its space, and sweep."""

import asyncio
import time

import structlog

from services.common.errors import ApiError
from services.storage.back_end import BackEnd
from services.storage.metrics import DISK_FREE, DISK_TOTAL, DISK_USED

log = structlog.get_logger(__name__)

_WATCH_SECONDS = 5
_SWEEP_SECONDS = 3600


class Upkeep:
    """Runs beside the service; is_usable tells whether the back end answered last time."""

    def __init__(self, back_end: BackEnd) -> None:
        self._back_end = back_end
        self.is_usable = False

    async def run(self) -> None:
        """Until cancelled. What fails is tried again."""
        next_sweep = 0.0
        while True:
            try:
                await self._back_end.check()
                self.is_usable = True
                space = await self._back_end.space()
                DISK_TOTAL.set(space.total)
                DISK_USED.set(space.used)
                DISK_FREE.set(space.free)
                if time.monotonic() >= next_sweep:
                    await self._back_end.sweep()
                    next_sweep = time.monotonic() + _SWEEP_SECONDS
            except ApiError as error:
                self.is_usable = False
                log.warning("the back end fails", code=error.code)
            except Exception:
                self.is_usable = False
                log.exception("the back end fails")
            await asyncio.sleep(_WATCH_SECONDS)
