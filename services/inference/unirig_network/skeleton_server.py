"""The skeleton model as Triton serves it: one thread that drives one decoding loop.

Requests wait until a slot is free, are encoded and join the loop between two tokens; each leaves as
soon as its skeleton ends, its caller cancels or memory runs out. While a shape is encoded the
others' tokens wait.
"""

import contextlib
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from services.inference.unirig_network.decoding_loop import (
    DecodingLoop,
    Finished,
    LoopCounters,
    Progress,
    Request,
)
from services.inference.unirig_network.serving_errors import is_out_of_memory, recover_from
from services.inference.unirig_network.serving_metrics import Metrics
from services.inference.unirig_network.serving_progress import Answers, PacedProgress
from services.inference.unirig_network.serving_settings import ServingSettings
from services.inference.unirig_network.skeleton_model import SkeletonModel
from services.inference.unirig_network.skeleton_options import SkeletonOptions
from services.inference.unirig_network.surface_input import check_surface

# Shares of the work done when the shape is read and when decoding starts.
_ENCODED = 0.08
_PREFILLED = 0.1
# Tokens after which decoding counts as half done: those of a skeleton of some forty joints.
_HALFWAY_TOKENS = 160
# How often a working loop hands its metrics over, seconds.
_PUBLISH_SECONDS = 0.25
_WARM_UP_POINTS = {"cpu": 1024, "cuda": 65536}


@dataclass(frozen=True)
class SkeletonJob:
    """points, normals: (N, 3) float32, the surface in [-1, 1], +Z up, facing -Y.

    The answer is its tokens from bos to eos, (T,) int32. Raises InvalidRequestError.
    """

    points: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]
    options: SkeletonOptions
    answers: Answers
    progress: PacedProgress = field(init=False)
    arrived: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        check_surface(self.points, self.normals)
        object.__setattr__(self, "progress", PacedProgress(self.answers.progress))


class SkeletonServer:
    """Ready when it is made: all memory of the loop is taken and everything has run once."""

    def __init__(self, model: SkeletonModel, settings: ServingSettings, metrics: Metrics) -> None:
        self._model = model
        self._device = model.transformer.lm_head.weight.device
        self._loop = DecodingLoop(model, settings.slots, settings.beams, settings.max_tokens)
        self._metrics = metrics
        self._counted = LoopCounters()
        self._published = 0.0
        self._arrivals: queue.SimpleQueue[SkeletonJob | None] = queue.SimpleQueue()
        self._waiting: deque[SkeletonJob] = deque()
        self._running: dict[int, SkeletonJob] = {}
        self._warm_up()
        # From the start there, at 0.
        self._metrics.add("unirig_out_of_memory_total", 0)
        self._metrics.add("unirig_decode_tokens_total", 0)
        for stage in ("wait", "encode", "prefill", "decode"):
            self._metrics.add("unirig_stage_seconds_total", 0, stage)
        self._publish(now=True)
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    def submit(self, job: SkeletonJob) -> None:
        """Queues a job; its answers come from the server's thread."""
        # Sent from here, so that whoever submits knows that all of the job has been read.
        job.progress.show(0.0, "Waiting for a free slot")
        self._arrivals.put(job)

    def stop(self) -> None:
        """Ends the thread. Jobs that are still here fail."""
        self._arrivals.put(None)
        self._thread.join()

    def _warm_up(self) -> None:
        points = torch.linspace(-1, 1, 3 * _WARM_UP_POINTS[self._device.type]).view(1, -1, 3)
        with torch.no_grad():
            self._model.condition(points.to(self._device), points.to(self._device))
        self._loop.warm_up()

    def _run(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        while self._take_arrivals():
            try:
                self._drop_cancelled()
                self._start_next()
                self._reassure_waiting()
                self._step()
            except Exception as error:  # the thread outlives whatever a job does
                self._fail_running(error)
            self._publish(now=not self._running)
        self._fail_running(RuntimeError("the model is being unloaded"))
        for job in self._waiting:
            self._fail(job, RuntimeError("the model is being unloaded"))

    def _take_arrivals(self) -> bool:
        """Moves what arrived to those that wait; without work it waits itself. False: stop."""
        idle = not self._waiting and not self._running
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._arrivals.get(block=idle)
                if job is None:
                    return False
                self._waiting.append(job)
                idle = False
        return True

    def _drop_cancelled(self) -> None:
        for ticket, job in list(self._running.items()):
            if job.answers.is_cancelled():
                self._leave(ticket)
                job.answers.drop()
        for job in list(self._waiting):
            if job.answers.is_cancelled():
                self._waiting.remove(job)
                job.answers.drop()

    def _start_next(self) -> None:
        """Encodes the job that has waited longest, if there is a slot for it."""
        if not self._waiting or not self._loop.free_slots:
            return
        job = self._waiting.popleft()
        waited = time.monotonic() - job.arrived
        self._metrics.add("unirig_stage_seconds_total", waited, "wait")
        try:
            self._running[self._begin(job)] = job
        except Exception as error:  # one job's failure is not the others'
            self._fail(job, error)

    def _reassure_waiting(self) -> None:
        for job in self._waiting:
            job.progress.show(0.0, "Waiting for a free slot")

    def _begin(self, job: SkeletonJob) -> int:
        job.progress.show(0.01, "Reading the shape")
        with self._timed("encode"), torch.no_grad():
            points = torch.from_numpy(job.points).to(self._device)
            normals = torch.from_numpy(job.normals).to(self._device)
            condition = self._model.condition(points[None], normals[None])[0]
        job.progress.show(_ENCODED, "Starting the skeleton")
        with self._timed("prefill"):
            request = Request(
                condition, job.options.class_name, job.options.decoding, job.options.seed
            )
            ticket = self._loop.add(request)
        job.progress.show(_PREFILLED, "Placing joints")
        return ticket

    def _step(self) -> None:
        """One token for each job in the loop."""
        try:
            with self._metrics.timed("decode"):
                events = self._loop.step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._make_room(error)
            return
        for event in events:
            job = self._running[event.ticket]
            try:
                self._tell(job, event)
            except Exception as error:  # one job's failure is not the others'
                self._leave(event.ticket)
                self._fail(job, error)

    def _tell(self, job: SkeletonJob, event: Progress | Finished) -> None:
        self._metrics.add("unirig_decode_tokens_total", 1)
        if isinstance(event, Progress):
            job.progress.show(share_of(event.tokens), f"Placing joints: {event.joints}")
            return
        self._leave(event.ticket)
        self._publish(now=True)
        job.answers.finish(np.array(event.sequence, dtype=np.int32))

    def _make_room(self, error: Exception) -> None:
        """Fails the job that came last, so that the others can go on."""
        ticket = max(self._running)
        job = self._running[ticket]
        self._leave(ticket)
        self._fail(job, error)

    def _fail_running(self, error: Exception) -> None:
        for ticket, job in list(self._running.items()):
            self._leave(ticket)
            self._fail(job, error)

    def _leave(self, ticket: int) -> None:
        self._loop.cancel(ticket)
        self._running.pop(ticket, None)

    def _fail(self, job: SkeletonJob, error: Exception) -> None:
        if is_out_of_memory(error):
            self._metrics.add("unirig_out_of_memory_total", 1)
        job.answers.fail(error)
        recover_from(error)

    def _publish(self, now: bool) -> None:
        """Hands over the metrics if it is time, or now."""
        if not now and time.monotonic() - self._published < _PUBLISH_SECONDS:
            return
        self._published = time.monotonic()
        counters, before = self._loop.counters, self._counted
        self._counted = counters
        self._metrics.add("unirig_decode_steps_total", counters.steps - before.steps)
        self._metrics.add("unirig_decode_rows_total", counters.rows - before.rows)
        self._metrics.add(
            "unirig_decode_shared_steps_total", counters.shared_steps - before.shared_steps
        )
        self._metrics.set("unirig_active_requests", len(self._running))
        self._metrics.set("unirig_waiting_requests", len(self._waiting))
        self._metrics.publish()

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Counts the time until the device has done all of the block."""
        with self._metrics.timed(stage):
            yield
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)


def share_of(tokens: int) -> float:
    """The share of the work that is done after so many tokens.

    Nobody knows beforehand how long a skeleton will be: the share comes ever nearer to 1, half of
    the way with each stretch that a usual skeleton takes.
    """
    return _PREFILLED + (1 - _PREFILLED) * (1 - math.exp2(-tokens / _HALFWAY_TOKENS))
