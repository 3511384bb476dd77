"""The skin model as Triton serves it: one request after the other, each in one pass."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from services.inference.unirig_network.serving_errors import (
    InvalidRequestError,
    is_out_of_memory,
    recover_from,
)
from services.inference.unirig_network.serving_metrics import Metrics
from services.inference.unirig_network.serving_progress import Answers, PacedProgress
from services.inference.unirig_network.skin_model import OnStage, SkinModel
from services.inference.unirig_network.surface_input import check_surface

_MAX_JOINTS = 1024
_WARM_UP_POINTS = {"cpu": 1024, "cuda": 32768}


@dataclass(frozen=True)
class SkinJob:
    """points, normals: (N, 3) float32, the surface in [-1, 1], +Z up, facing -Y.
    joints: (J, 3) float32 in the same frame. parents: (J,) int32, -1 for the root, parents first.
    prior: (N, J) float32 >= 0, each row sums to 1.

    The answer is the weights, (N, J) float32, each row sums to 1. Raises InvalidRequestError.
    """

    points: npt.NDArray[np.float32]
    normals: npt.NDArray[np.float32]
    joints: npt.NDArray[np.float32]
    parents: npt.NDArray[np.int32]
    prior: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        check_surface(self.points, self.normals)
        count = len(self.joints)
        if not 1 <= count <= _MAX_JOINTS or self.joints.shape != (count, 3):
            raise InvalidRequestError(
                f"there must be 1 to {_MAX_JOINTS} joints of three coordinates,"
                f" not {self.joints.shape}"
            )
        if self.parents.shape != (count,) or self.prior.shape != (len(self.points), count):
            raise InvalidRequestError("there must be a parent and a column of the prior a joint")
        if not np.isfinite(self.joints).all():
            raise InvalidRequestError("a joint is at no finite place")
        if (self.parents < -1).any() or (self.parents >= np.arange(count)).any():
            raise InvalidRequestError("a joint's parent must come before it")
        if not np.isfinite(self.prior).all() or (self.prior < 0).any():
            raise InvalidRequestError("the prior must be numbers of 0 or more")


class SkinServer:
    """Ready when it is made: everything has run once."""

    def __init__(self, model: SkinModel, metrics: Metrics) -> None:
        self._model = model
        self._device = model.qmesh.weight.device
        self._metrics = metrics
        self._warm_up()
        # From the start there, at 0.
        self._metrics.add("unirig_out_of_memory_total", 0)
        self._metrics.add("unirig_stage_seconds_total", 0, "skin")
        self._publish(active=0)

    def serve(self, job: SkinJob, answers: Answers) -> None:
        """Answers the job before it returns."""
        self._publish(active=1)
        try:
            self._answer(job, answers)
        except Exception as error:  # the server outlives whatever a job does
            self._fail(answers, error)
        finally:
            self._publish(active=0)

    def _answer(self, job: SkinJob, answers: Answers) -> None:
        progress = PacedProgress(answers.progress)

        def on_stage(share: float, message: str) -> None:
            if self._device.type == "cuda":
                # Else the pass would be far ahead of the GPU, and a cancellation too late.
                torch.cuda.synchronize(self._device)
            if answers.is_cancelled():
                raise _CancelledError
            progress.show(share, message)

        try:
            with self._metrics.timed("skin"):
                weights = self._weights(job, on_stage)
        except _CancelledError:
            answers.drop()
            return
        answers.finish(weights)

    def _weights(self, job: SkinJob, on_stage: OnStage) -> npt.NDArray[np.float32]:
        arrays = (job.points, job.normals, job.joints, job.parents, job.prior)
        tensors = [torch.from_numpy(array).to(self._device) for array in arrays]
        weights: npt.NDArray[np.float32] = self._model(*tensors, on_stage=on_stage).cpu().numpy()
        return weights

    def _fail(self, answers: Answers, error: Exception) -> None:
        if is_out_of_memory(error):
            self._metrics.add("unirig_out_of_memory_total", 1)
        answers.fail(error)
        recover_from(error)

    def _publish(self, active: int) -> None:
        self._metrics.set("unirig_active_requests", active)
        self._metrics.publish()

    def _warm_up(self) -> None:
        count = _WARM_UP_POINTS[self._device.type]
        points = np.linspace(-1, 1, 3 * count, dtype=np.float32).reshape(count, 3)
        joints, parents = points[:2], np.array([-1, 0], dtype=np.int32)
        prior = np.full((count, 2), 0.5, dtype=np.float32)
        self._weights(SkinJob(points, points, joints, parents, prior), lambda share, message: None)


class _CancelledError(Exception):
    """Nobody waits for the pass any more."""
