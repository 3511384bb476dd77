"""Work that must not be left half done, and blocking file work off the event loop."""

import asyncio
import errno
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

import structlog

from services.storage.back_end import storage_full, storage_unavailable

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# EFBIG: the process's own file size limit.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BROKEN = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENOTCONN)


async def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs it to its end: a cancelled caller waits for that, however often it is cancelled."""
    work = asyncio.ensure_future(coroutine)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        work.exception()
        raise


async def finish_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs blocking work in a thread and never leaves it running, so that no descriptor is closed
    under it. OSErrors come back as what they mean."""
    try:
        return await finish(asyncio.to_thread(function, *args, **kwargs))
    except OSError as error:
        if error.errno in _FULL:
            raise storage_full() from error
        if error.errno in _BROKEN:
            log.exception("the volume fails")
            raise storage_unavailable() from error
        raise
