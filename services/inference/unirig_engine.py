"""The neural engine: geometry in confined programs on this machine, the networks on Triton."""

import asyncio
import sys
import zipfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.json_format import MessageToDict
from unirig.v1 import jobs_pb2

from services.inference import unirig_geometry
from services.inference.limited_process import StepError
from services.inference.progress import StepProgress
from services.inference.triton_client import ModelError, TritonClient
from services.inference.unirig_network.tokenizer import MalformedSequenceError, decode_skeleton
from services.inference.workplace import Workplace

NAME = "unirig"
VERSION = "1.0.0"

_GEOMETRY = (sys.executable, "-m", unirig_geometry.__name__)
# What UniRig's own command takes where no seed is asked for.
_DEFAULT_SEED = 12345
_Answer = TypeVar("_Answer")


class UnirigEngine:
    """Predicts with the networks that a Triton server has.

    deadline_seconds: how long one prediction may take on the server.
    ModelServerError passes through: another attempt may fare better.
    """

    name = NAME
    version = VERSION

    def __init__(self, client: TritonClient, deadline_seconds: float) -> None:
        self._client = client
        self._deadline_seconds = deadline_seconds

    async def close(self) -> None:
        await self._client.close()

    async def predict_skeleton(
        self,
        mesh: Path,
        skeleton: Path,
        options: jobs_pb2.RigOptions,
        place: Workplace,
        report: StepProgress,
    ) -> list[str]:
        samples = place.folder / "skeleton-samples.npz"
        await _step(
            place,
            "sample for skeleton",
            ["sample-skeleton", mesh, samples, "--seed", _seed(options)],
            _part(report, 0.0, 0.15),
        )
        points, normals = load_arrays(samples, place, "points", "normals")
        tokens = await self._predicted(
            lambda: self._client.predict_tokens(
                points, normals, _decoding(options), _part(report, 0.15, 0.95)
            )
        )
        predicted = place.folder / "joints.npz"
        save_joints(predicted, tokens)
        await _step(
            place,
            "read skeleton",
            ["read-skeleton", mesh, samples, predicted, skeleton],
            _part(report, 0.95, 1.0),
        )
        return []

    async def predict_weights(
        self,
        mesh: Path,
        skeleton: Path,
        weights: Path,
        options: jobs_pb2.RigOptions,
        place: Workplace,
        report: StepProgress,
    ) -> list[str]:
        samples = place.folder / "skin-samples.npz"
        await _step(
            place,
            "sample for skin",
            ["sample-skin", mesh, skeleton, samples, "--seed", _seed(options)],
            _part(report, 0.0, 0.3),
        )
        points, normals, joints, parents, prior = load_arrays(
            samples, place, "points", "normals", "joints", "parents", "voxel_skin"
        )
        skin = await self._predicted(
            lambda: self._client.predict_weights(
                points, normals, joints, parents, prior, _part(report, 0.3, 0.85)
            )
        )
        predicted = place.folder / "skin.npz"
        np.savez(predicted, skin=skin)
        await _step(
            place,
            "read skin",
            ["read-skin", mesh, skeleton, samples, predicted, weights],
            _part(report, 0.85, 1.0),
        )
        return []

    async def _predicted(self, predict: Callable[[], Awaitable[_Answer]]) -> _Answer:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await predict()
        except ModelError as error:
            raise StepError(error.code, error.detail) from error
        except TimeoutError:
            raise StepError(
                "TIMEOUT",
                f"The model took longer than the {self._deadline_seconds:.0f} seconds that a "
                "prediction may take. Try again later.",
            ) from None


def _seed(options: jobs_pb2.RigOptions) -> int:
    return options.seed if options.HasField("seed") else _DEFAULT_SEED


def _decoding(options: jobs_pb2.RigOptions) -> dict[str, Any]:
    """The options that were given, by their names, and the seed in any case."""
    given = MessageToDict(options, preserving_proto_field_name=True)
    return {**given, "seed": _seed(options)}


def _part(report: StepProgress, start: float, end: float) -> StepProgress:
    """A share of the whole prediction's progress."""
    return lambda share, message: report(start + (end - start) * share, message)


async def _step(
    place: Workplace, name: str, arguments: Sequence[object], report: StepProgress
) -> None:
    await place.step(name, [*_GEOMETRY, *arguments], report, "PROCESSING_FAILED")


def load_arrays(path: Path, place: Workplace, *names: str) -> list[npt.NDArray[Any]]:
    """Arrays that a step left, trusted no more than the step: numbers alone, and stored as they
    are, so that a small file cannot become a large array."""
    if not place.has(path):
        raise StepError("PROCESSING_FAILED", "The model could not be sampled.")
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("the arrays are compressed")
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise StepError(
            "PROCESSING_FAILED", "The model could not be sampled.", str(error)
        ) from error


def save_joints(path: Path, tokens: npt.NDArray[np.int32]) -> None:
    try:
        skeleton = decode_skeleton([int(token) for token in tokens])
    except MalformedSequenceError as error:
        raise StepError(
            "PROCESSING_FAILED",
            "The model found no whole skeleton. Try again with another seed.",
            str(error),
        ) from error
    np.savez(
        path,
        joints=skeleton.joints,
        parents=skeleton.parents,
        names=np.array(skeleton.names, dtype=np.str_),
    )
