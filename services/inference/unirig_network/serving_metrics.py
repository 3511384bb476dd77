"""The models' metrics on Triton's metrics port."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["counter", "gauge"]

FAMILIES: dict[str, tuple[Kind, str]] = {
    "unirig_decode_steps_total": ("counter", "Passes of the skeleton transformer."),
    "unirig_decode_shared_steps_total": ("counter", "Passes that served more than one request."),
    "unirig_decode_rows_total": ("counter", "Beams decoded in those passes."),
    "unirig_decode_tokens_total": ("counter", "Tokens generated, of each request's best beam."),
    "unirig_active_requests": ("gauge", "Requests that are worked on, without those that wait."),
    "unirig_waiting_requests": ("gauge", "Requests that wait for a free slot."),
    "unirig_out_of_memory_total": ("counter", "Requests that failed for want of memory."),
    "unirig_stage_seconds_total": ("counter", "Time spent in each stage, seconds."),
}


class Metric(Protocol):
    """What Triton offers of one: increment for counters, set for gauges."""

    def increment(self, amount: float) -> None: ...

    def set(self, value: float) -> None: ...


# From a name in FAMILIES and labels to the metric.
MakeMetric = Callable[[str, Mapping[str, str]], Metric]


@dataclass(frozen=True)
class _Series:
    name: str
    stage: str = ""


class Metrics:
    """The metrics of one model instance.

    Values are gathered here and handed to Triton together: each hand-over is a message between
    processes, and the server does not survive two at a time from one of them.
    """

    def __init__(self, labels: Mapping[str, str], make_metric: MakeMetric) -> None:
        self._labels = dict(labels)
        self._make_metric = make_metric
        self._lock = threading.Lock()
        self._metrics: dict[_Series, Metric] = {}
        self._amounts: dict[_Series, float] = {}
        self._values: dict[_Series, float] = {}

    def add(self, name: str, amount: float, stage: str = "") -> None:
        """To a counter of FAMILIES; 0 makes it appear."""
        series = _Series(name, stage)
        with self._lock:
            self._amounts[series] = self._amounts.get(series, 0.0) + amount

    def set(self, name: str, value: float) -> None:
        """A gauge of FAMILIES."""
        with self._lock:
            self._values[_Series(name)] = value

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Counts the seconds of the block as the stage's, however it ends."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.add("unirig_stage_seconds_total", time.monotonic() - start, stage)

    def publish(self) -> None:
        """Hands over what was gathered."""
        with self._lock:
            for series, amount in self._amounts.items():
                self._metric(series).increment(amount)
            for series, value in self._values.items():
                self._metric(series).set(value)
            self._amounts.clear()
            self._values.clear()

    def _metric(self, series: _Series) -> Metric:
        if series not in self._metrics:
            stage = {"stage": series.stage} if series.stage else {}
            self._metrics[series] = self._make_metric(series.name, self._labels | stage)
        return self._metrics[series]
