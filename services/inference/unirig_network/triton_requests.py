"""Triton's requests, answers and metrics as the servers take them; imported inside Triton only."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton_python_backend_utils as pb_utils

from services.inference.unirig_network.serving_errors import (
    InvalidRequestError,
    error_text,
    load_error_text,
)
from services.inference.unirig_network.serving_metrics import FAMILIES, Metric, Metrics
from services.inference.unirig_network.serving_settings import ServingSettings, serving_settings

_log = logging.getLogger(__name__)


def device_of(arguments: Mapping[str, str]) -> torch.device:
    """Where Triton wants a model instance: on one of its GPUs, which becomes the process's own, or
    on the CPU."""
    if arguments["model_instance_kind"] != "GPU":
        return torch.device("cpu")
    device = torch.device("cuda", int(arguments["model_instance_device_id"]))
    torch.cuda.set_device(device)
    return device


def settings_of(device: torch.device) -> ServingSettings:
    """This process's settings; the number of its threads is set."""
    settings = serving_settings(os.environ, device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return settings


def load_failure(error: Exception) -> Exception:
    """What a model raises that cannot be loaded: the text stands in the repository index."""
    failure: Exception = pb_utils.TritonModelException(load_error_text(error))
    return failure


def tensor_of(request: Any, name: str) -> npt.NDArray[Any]:
    """A copy: the request's own memory is gone when execute returns."""
    return np.array(pb_utils.get_input_tensor_by_name(request, name).as_numpy())


def text_of(request: Any, name: str) -> str:
    """The one string of a BYTES input."""
    texts = tensor_of(request, name).ravel()
    if len(texts) != 1:
        raise InvalidRequestError(f"{name} must hold one string, not {len(texts)}")
    try:
        return bytes(texts[0]).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{name} is not UTF-8") from error


class TritonAnswers:
    """The answers to one request (see Answers). result: the output that holds the result.

    Only outputs that the caller asked for are sent: Triton's process does not survive others.
    """

    def __init__(self, request: Any, result: str) -> None:
        self._sender = request.get_response_sender()
        self._wanted = set(request.requested_output_names())
        self._result = result

    def progress(self, share: float, message: str) -> None:
        with _undeliverable():
            self._send(
                PROGRESS=np.array([share], dtype=np.float32),
                MESSAGE=np.array([message.encode()], dtype=np.object_),
            )

    def finish(self, result: npt.NDArray[Any]) -> None:
        self._send(**{self._result: result})
        self._end()

    def fail(self, error: Exception) -> None:
        with _undeliverable():
            self._sender.send(
                pb_utils.InferenceResponse(error=pb_utils.TritonError(error_text(error))),
                flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
            )

    def drop(self) -> None:
        with _undeliverable():
            self._end()

    def is_cancelled(self) -> bool:
        with _undeliverable():
            return bool(self._sender.is_cancelled())
        return True

    def _send(self, **outputs: npt.NDArray[Any]) -> None:
        tensors = [
            pb_utils.Tensor(name, array) for name, array in outputs.items() if name in self._wanted
        ]
        if tensors:
            self._sender.send(pb_utils.InferenceResponse(tensors))

    def _end(self) -> None:
        self._sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


@contextmanager
def _undeliverable() -> Iterator[None]:
    """A caller who cannot be told anything is no trouble of the model's."""
    try:
        yield
    except pb_utils.TritonModelException as error:
        _log.warning("an answer could not be delivered: %s", error)


def metrics_of(arguments: Mapping[str, str]) -> Metrics:
    """The metrics of a model instance on Triton's metrics port."""
    kinds = {"counter": pb_utils.MetricFamily.COUNTER, "gauge": pb_utils.MetricFamily.GAUGE}
    families: dict[str, Any] = {}

    def make(name: str, labels: Mapping[str, str]) -> Metric:
        if name not in families:
            kind, description = FAMILIES[name]
            families[name] = pb_utils.MetricFamily(
                name=name, description=description, kind=kinds[kind]
            )
        metric: Metric = families[name].Metric(labels=dict(labels))
        return metric

    # Not "instance", which Prometheus calls what it scrapes.
    instance = arguments["model_instance_name"]
    return Metrics({"model": arguments["model_name"], "model_instance": instance}, make)
