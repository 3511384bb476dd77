"""Triton's entry to the skin model."""

from typing import Any

from services.inference.unirig_network.checkpoint_format import checkpoint_path
from services.inference.unirig_network.model_loading import load_skin
from services.inference.unirig_network.skin_server import SkinJob, SkinServer
from services.inference.unirig_network.triton_requests import (
    TritonAnswers,
    device_of,
    load_failure,
    metrics_of,
    settings_of,
    tensor_of,
)


class TritonPythonModel:
    def initialize(self, arguments: dict[str, str]) -> None:
        """Returns when the weights are in and everything has run once."""
        try:
            device = device_of(arguments)
            settings = settings_of(device)
            model = load_skin(checkpoint_path(settings.model_folder, "skin"), device)
            self._server = SkinServer(model, metrics_of(arguments))
        except Exception as error:
            raise load_failure(error) from None

    def execute(self, requests: list[Any]) -> None:
        """Answers each before it returns: should this process die, Triton tells the caller."""
        for request in requests:
            answers = TritonAnswers(request, result="WEIGHTS")
            try:
                job = _job(request)
            except Exception as error:  # the model outlives whatever a request does
                answers.fail(error)
            else:
                self._server.serve(job, answers)


def _job(request: Any) -> SkinJob:
    return SkinJob(
        points=tensor_of(request, "POINTS"),
        normals=tensor_of(request, "NORMALS"),
        joints=tensor_of(request, "JOINTS"),
        parents=tensor_of(request, "PARENTS"),
        prior=tensor_of(request, "PRIOR"),
    )
