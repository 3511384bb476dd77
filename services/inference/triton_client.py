"""The networks on a Triton server, as the worker calls them.

A prediction is one request with many answers: progress, then the result. Whatever fails is sorted
into what another attempt may mend (ModelServerError) and what it will not (ModelError).
"""

import asyncio
import contextlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import structlog
from opentelemetry.trace import SpanKind
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from services.common.tracing import span, trace_headers
from services.inference.shared_tensors import SharedTensors

log = structlog.get_logger(__name__)

SKELETON_MODEL = "unirig_skeleton"
SKIN_MODEL = "unirig_skin"

# Called with the share of the prediction that is done, 0..1, and what is being done.
OnProgress = Callable[[float, str], None]
Tensors = Mapping[str, npt.NDArray[Any]]

_MAX_MESSAGE_BYTES = 2**31 - 1
_ONE_OF_MANY = {"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True}}]}
CHANNEL = [
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # Any one of the replicas, and another one after a connection's end. Not each call to the next:
    # to load a model anew, a replica must hear both that it is to unload it and that it is to load.
    ("grpc.service_config", json.dumps(_ONE_OF_MANY)),
    # A server that was started again is found soon.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Also where its pod is a new one: gRPC would look for addresses only every 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
]
# How long a question of the server's state may take, and the pause between two, seconds.
_QUESTION_SECONDS = 5.0
_POLL_SECONDS = 0.2

_CODED = re.compile(
    r"\b(GPU_OUT_OF_MEMORY|MODEL_CHECKPOINT_MISSING|PROCESSING_FAILED|INVALID_REQUEST): (.*)",
    re.DOTALL,
)
# Triton's own words: for inputs that do not fit the model, for a model whose process is gone, and
# where an error text of a model that cannot be loaded goes over into a traceback.
_MISFIT = "unexpected shape for input"
_DEAD_MODEL = re.compile(r"Stub process .* is not healthy")
_TRACEBACK = "\n\nAt:\n"


class ModelError(Exception):
    """The prediction failed, and would fail again. code: of the API. detail: for the user."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class ModelServerError(Exception):
    """The model server failed; another attempt, perhaps later, may fare better."""


class _DeadModelError(Exception):
    """The model's process is gone; it comes back when the model is loaded anew."""


@dataclass(frozen=True)
class _Prediction:
    """One request. tensors: by the names of the model's inputs. result: the output that holds the
    result; shape: its shape, float32, where it is known and so may come in shared memory."""

    model: str
    tensors: Tensors
    result: str
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, tensor in self.tensors.items():
            if tensor.size == 0:
                raise ModelError("INVALID_REQUEST", f"{name} is empty")

    @property
    def shared_sizes(self) -> dict[str, int]:
        """What may travel in shared memory, by name, bytes: all numbers."""
        sizes = {
            name: tensor.nbytes
            for name, tensor in self.tensors.items()
            if tensor.dtype != np.object_
        }
        if self.shape is not None:
            sizes[self.result] = math.prod(self.shape) * np.dtype(np.float32).itemsize
        return sizes


@dataclass(frozen=True)
class _Status:
    """A model in the server's repository index. reason: why it is in this state."""

    state: str
    reason: str


class TritonClient:
    """A client of one server, for as many predictions at a time as one likes.

    address: host and port of Triton's gRPC.
    patience_seconds: how long a prediction waits for the server and the model to be ready.
    idle_seconds: how long a prediction that the model has begun to answer may go without another
    answer. Before that it may wait its turn for as long as the server lives.
    shared_memory: whether tensors travel in shared memory, for a server on the same host; where
    there is not enough of it, or it is False, they travel in the messages.

    Make it while an event loop runs. Cancelling the task that awaits a prediction cancels it on
    the server.
    """

    def __init__(
        self, address: str, *, patience_seconds: float, idle_seconds: float, shared_memory: bool
    ) -> None:
        self._client = InferenceServerClient(address, channel_args=CHANNEL)
        self._patience_seconds = patience_seconds
        self._idle_seconds = idle_seconds
        self._shared_memory = shared_memory
        self._reviving = asyncio.Lock()
        # How often each model was loaded anew.
        self._lives = Counter[str]()
        self._unregistering: set[asyncio.Task[None]] = set()

    async def predict_tokens(
        self,
        points: npt.NDArray[np.float32],
        normals: npt.NDArray[np.float32],
        options: Mapping[str, object],
        on_progress: OnProgress,
    ) -> npt.NDArray[np.int32]:
        """The tokens of a skeleton from bos to eos, (T,).

        points, normals: (N, 3), samples of the surface in [-1, 1], +Z up, facing -Y.
        options: any of seed, skeleton_class, beams, temperature, top_k, top_p, repetition_penalty,
        max_tokens, max_joints. Raises ModelError, ModelServerError.
        """
        tensors = {
            **_floats(POINTS=points, NORMALS=normals),
            "OPTIONS": np.array([json.dumps(dict(options)).encode()], dtype=np.object_),
        }
        return await self._predict(_Prediction(SKELETON_MODEL, tensors, "TOKENS"), on_progress)

    async def predict_weights(
        self,
        points: npt.NDArray[np.float32],
        normals: npt.NDArray[np.float32],
        joints: npt.NDArray[np.float32],
        parents: npt.NDArray[np.int32],
        prior: npt.NDArray[np.float32],
        on_progress: OnProgress,
    ) -> npt.NDArray[np.float32]:
        """Weights (N, J), each row sums to 1.

        points, normals: as above. joints: (J, 3) in the same frame. parents: (J,), -1 for the root,
        parents first. prior: (N, J) >= 0, each row sums to 1. Raises ModelError, ModelServerError.
        """
        tensors = {
            **_floats(POINTS=points, NORMALS=normals, JOINTS=joints, PRIOR=prior),
            "PARENTS": np.ascontiguousarray(parents, dtype=np.int32),
        }
        prediction = _Prediction(SKIN_MODEL, tensors, "WEIGHTS", tuple(prior.shape))
        return await self._predict(prediction, on_progress)

    async def is_ready(self) -> bool:
        """Whether the server answers and has both models."""
        try:
            return all(
                [
                    await self._client.is_model_ready(model, client_timeout=_QUESTION_SECONDS)
                    for model in (SKELETON_MODEL, SKIN_MODEL)
                ]
            )
        except InferenceServerException:
            return False

    async def close(self) -> None:
        """Ends the connection. Predictions that still run fail."""
        if self._unregistering:
            _, late = await asyncio.wait(self._unregistering, timeout=_QUESTION_SECONDS)
            for task in late:
                task.cancel()
        await self._client.close()

    async def _predict(self, prediction: _Prediction, on_progress: OnProgress) -> npt.NDArray[Any]:
        await self._wait_until_ready(prediction.model)
        life = self._lives[prediction.model]
        try:
            return await self._infer(prediction, on_progress)
        except _DeadModelError as error:
            log.warning("model died", model=prediction.model, error=str(error))
        await self._revive(prediction.model, life)
        try:
            return await self._infer(prediction, on_progress)
        except _DeadModelError as error:
            raise ModelServerError(f"{prediction.model} died again: {error}") from error

    async def _infer(self, prediction: _Prediction, on_progress: OnProgress) -> npt.NDArray[Any]:
        with span(f"infer {prediction.model}", SpanKind.CLIENT) as calling:
            # Triton goes on with any trace that is named to it, whether it is kept or not.
            headers = trace_headers() if calling.is_recording() else {}
            return await self._exchange(prediction, headers, on_progress)

    async def _exchange(
        self, prediction: _Prediction, headers: dict[str, str], on_progress: OnProgress
    ) -> npt.NDArray[Any]:
        async with self._carried(prediction) as shared:
            request = _once(_request(prediction, shared))
            stream = self._client.stream_infer(request, headers=headers)
            answer: npt.NDArray[Any] | None = None
            try:
                async with contextlib.aclosing(self._results(stream)) as results:
                    async for result in results:
                        if result.get_output(prediction.result) is not None:
                            answer = _answer(result, prediction, shared)
                        else:
                            on_progress(*_progress(result))
            finally:
                stream.cancel()
        if answer is None:
            raise ModelServerError(f"{prediction.model} ended a prediction without a result")
        return answer

    async def _results(self, stream: Any) -> AsyncGenerator[InferResult, None]:
        """The answers of one request. A model that died may leave it without an end."""
        begun = False
        while True:
            coming = asyncio.ensure_future(anext(stream))
            try:
                while not (await asyncio.wait([coming], timeout=self._idle_seconds))[0]:
                    if begun or not await self._is_live():
                        raise ModelServerError(f"no answer for {self._idle_seconds:.0f} s")
                result, error = coming.result()
            except StopAsyncIteration:
                return
            except grpc.aio.AioRpcError as error:
                raise ModelServerError(f"the connection broke: {error.details()}") from error
            finally:
                coming.cancel()
            if error is not None:
                text = str(error.message())
                raise _DeadModelError(text) if _DEAD_MODEL.search(text) else _failure(text)
            begun = True
            yield result

    @contextlib.asynccontextmanager
    async def _carried(self, prediction: _Prediction) -> AsyncIterator[SharedTensors | None]:
        """The tensors in shared memory that the server knows; None: they are to be sent."""
        shared = self._shared(prediction) if self._shared_memory else None
        if shared is None:
            yield None
            return
        try:
            await _asked(
                self._client.register_system_shared_memory(
                    shared.name, shared.key, shared.size, client_timeout=_QUESTION_SECONDS
                )
            )
            yield shared
        finally:
            shared.close()
            task = asyncio.create_task(self._unregister(shared.name))
            self._unregistering.add(task)
            task.add_done_callback(self._unregistering.discard)

    def _shared(self, prediction: _Prediction) -> SharedTensors | None:
        try:
            shared = SharedTensors(prediction.shared_sizes)
        except OSError as error:
            log.warning("no shared memory for tensors", error=str(error))
            return None
        for name, tensor in prediction.tensors.items():
            if name in shared.places:
                shared.write(name, tensor)
        return shared

    async def _unregister(self, name: str) -> None:
        """Lets the server forget a segment, as soon as no request uses it any more."""
        deadline = time.monotonic() + self._patience_seconds
        while time.monotonic() < deadline:
            try:
                await self._client.unregister_system_shared_memory(
                    name, client_timeout=_QUESTION_SECONDS
                )
            except InferenceServerException as error:
                if "in use" not in str(error.message()):
                    return
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return

    async def _wait_until_ready(self, model: str) -> None:
        """Raises ModelError where the model cannot be loaded for a reason of its own."""
        deadline = time.monotonic() + self._patience_seconds
        trouble = ""
        tried = False
        while time.monotonic() < deadline:
            try:
                if await self._client.is_model_ready(model, client_timeout=_QUESTION_SECONDS):
                    return
                status = await self._status(model)
                if status.state == "UNAVAILABLE" and tried:
                    raise _failure(status.reason)
                if status.state in ("UNAVAILABLE", "UNLOADING") and not tried:
                    # What it lacked may be there by now.
                    tried = True
                    await self._client.load_model(model, client_timeout=self._patience_seconds)
                trouble = status.reason
            except InferenceServerException as error:
                trouble = str(error.message())
            await asyncio.sleep(_POLL_SECONDS)
        raise ModelServerError(f"{model} is not ready: {trouble or 'it is loading'}")

    async def _revive(self, model: str, life: int) -> None:
        """Loads a model anew whose process is gone; Triton does not do it by itself.

        life: the one that ended, so that of several predictions only the first does it.
        """
        async with self._reviving:
            if self._lives[model] != life:
                return
            # What the dead process leaves open keeps the old one unloading, which is no hindrance.
            await _asked(self._client.unload_model(model, client_timeout=_QUESTION_SECONDS))
            await _asked(self._client.load_model(model, client_timeout=self._patience_seconds))
            self._lives[model] += 1

    async def _status(self, model: str) -> _Status:
        index = await self._client.get_model_repository_index(client_timeout=_QUESTION_SECONDS)
        for entry in index.models:
            if entry.name == model:
                return _Status(entry.state, entry.reason)
        return _Status("UNAVAILABLE", "it is not in the repository")

    async def _is_live(self) -> bool:
        try:
            return bool(await self._client.is_server_live(client_timeout=_QUESTION_SECONDS))
        except InferenceServerException:
            return False


def _floats(**tensors: npt.ArrayLike) -> dict[str, npt.NDArray[np.float32]]:
    return {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}


def _request(prediction: _Prediction, shared: SharedTensors | None) -> dict[str, Any]:
    inputs = []
    for name, tensor in prediction.tensors.items():
        inputs.append(InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype)))
        if shared is not None and name in shared.places:
            place = shared.places[name]
            inputs[-1].set_shared_memory(shared.name, place.size, place.offset)
        else:
            inputs[-1].set_data_from_numpy(tensor)
    result = InferRequestedOutput(prediction.result)
    if shared is not None and prediction.result in shared.places:
        place = shared.places[prediction.result]
        result.set_shared_memory(shared.name, place.size, place.offset)
    outputs = [InferRequestedOutput("PROGRESS"), InferRequestedOutput("MESSAGE"), result]
    return {"model_name": prediction.model, "inputs": inputs, "outputs": outputs}


def _progress(result: InferResult) -> tuple[float, str]:
    share, message = result.as_numpy("PROGRESS"), result.as_numpy("MESSAGE")
    return float(share[0]), message[0].decode()


def _answer(
    result: InferResult, prediction: _Prediction, shared: SharedTensors | None
) -> npt.NDArray[Any]:
    if shared is not None and prediction.shape is not None:
        return shared.read(prediction.result, prediction.shape, np.float32)
    answer: npt.NDArray[Any] = result.as_numpy(prediction.result)
    return answer


async def _once(request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield request


async def _asked(answer: Awaitable[object]) -> None:
    """Waits for what was asked of the server; raises as a failed prediction does."""
    try:
        await answer
    except InferenceServerException as error:
        raise _failure(str(error.message())) from error


def _failure(text: str) -> ModelError | ModelServerError:
    """What the server's error text means."""
    coded = _CODED.search(text)
    if coded:
        return ModelError(coded[1], coded[2].split(_TRACEBACK)[0].strip())
    if _MISFIT in text:
        return ModelError("INVALID_REQUEST", text)
    return ModelServerError(text)
