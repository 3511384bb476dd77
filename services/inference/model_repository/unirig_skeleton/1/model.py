"""Triton's entry to the skeleton model."""

from typing import Any

from services.inference.unirig_network.checkpoint_format import checkpoint_path
from services.inference.unirig_network.model_loading import load_skeleton
from services.inference.unirig_network.skeleton_options import read_options
from services.inference.unirig_network.skeleton_server import SkeletonJob, SkeletonServer
from services.inference.unirig_network.triton_requests import (
    TritonAnswers,
    device_of,
    load_failure,
    metrics_of,
    settings_of,
    tensor_of,
    text_of,
)


class TritonPythonModel:
    def initialize(self, arguments: dict[str, str]) -> None:
        """Returns when the weights are in and everything has run once."""
        try:
            device = device_of(arguments)
            self._settings = settings_of(device)
            model = load_skeleton(checkpoint_path(self._settings.model_folder, "skeleton"), device)
            self._server = SkeletonServer(model, self._settings, metrics_of(arguments))
        except Exception as error:
            raise load_failure(error) from None

    def execute(self, requests: list[Any]) -> None:
        """Queues them; the server's thread answers."""
        for request in requests:
            answers = TritonAnswers(request, result="TOKENS")
            try:
                self._server.submit(self._job(request, answers))
            except Exception as error:  # the model outlives whatever a request does
                answers.fail(error)

    def finalize(self) -> None:
        self._server.stop()

    def _job(self, request: Any, answers: TritonAnswers) -> SkeletonJob:
        return SkeletonJob(
            points=tensor_of(request, "POINTS"),
            normals=tensor_of(request, "NORMALS"),
            options=read_options(text_of(request, "OPTIONS"), self._settings),
            answers=answers,
        )
