"""Where what becomes of a request goes, and how often it is told how far it is."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy.typing as npt

# A caller hears of every hundredth part of the work, and at least so often, seconds.
_STEP = 0.01
_HEARTBEAT_SECONDS = 1.0


class Answers(Protocol):
    """The answers to one request: any number of progress, then one of finish, fail and drop.

    Only finish raises, and fail may follow it.
    """

    def progress(self, share: float, message: str) -> None:
        """share: 0..1 of this model's work."""

    def finish(self, result: npt.NDArray[Any]) -> None: ...

    def fail(self, error: Exception) -> None: ...

    def drop(self) -> None:
        """Ends the answers of a request that is cancelled."""

    def is_cancelled(self) -> bool:
        """Whether nobody waits for an answer any more."""


class PacedProgress:
    """Passes progress on at a humane rate; it never goes back."""

    def __init__(
        self,
        send: Callable[[float, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._clock = clock
        self._share = -1.0
        self._sent = -1.0
        self._time = 0.0

    def show(self, share: float, message: str) -> None:
        self._share = max(self._share, share)
        now = self._clock()
        if self._share - self._sent < _STEP and now - self._time < _HEARTBEAT_SECONDS:
            return
        self._sent, self._time = self._share, now
        self._send(self._share, message)
