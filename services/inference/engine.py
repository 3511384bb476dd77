"""What predicts skeletons and weights, and the engine that needs nothing but a CPU."""

import sys
from pathlib import Path
from typing import Protocol

from unirig.v1 import jobs_pb2

from services.inference import geometric
from services.inference.progress import StepProgress
from services.inference.workplace import Workplace


class Engine(Protocol):
    """Predicts from files to files (see geometry.py), in the folder of one attempt.

    Both methods return notes for the user and raise StepError for what cannot be rigged.
    Cancelling the awaiting task stops the work.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...

    async def predict_skeleton(
        self,
        mesh: Path,
        skeleton: Path,
        options: jobs_pb2.RigOptions,
        place: Workplace,
        report: StepProgress,
    ) -> list[str]: ...

    async def predict_weights(
        self,
        mesh: Path,
        skeleton: Path,
        weights: Path,
        options: jobs_pb2.RigOptions,
        place: Workplace,
        report: StepProgress,
    ) -> list[str]: ...

    async def close(self) -> None: ...


class GeometricEngine:
    """The geometric engine: one confined program, no options."""

    name = geometric.NAME
    version = geometric.VERSION
    _PROGRAM = (sys.executable, "-m", geometric.__name__)

    async def predict_skeleton(
        self,
        mesh: Path,
        skeleton: Path,
        options: jobs_pb2.RigOptions,
        place: Workplace,
        report: StepProgress,
    ) -> list[str]:
        command = [*self._PROGRAM, "skeleton", mesh, skeleton]
        await place.step("predict skeleton", command, report, "PROCESSING_FAILED")
        return _without_use(options)

    async def predict_weights(
        self,
        mesh: Path,
        skeleton: Path,
        weights: Path,
        options: jobs_pb2.RigOptions,
        place: Workplace,
        report: StepProgress,
    ) -> list[str]:
        command = [*self._PROGRAM, "skin", mesh, skeleton, weights]
        await place.step("predict weights", command, report, "PROCESSING_FAILED")
        return _without_use(options)

    async def close(self) -> None:
        """Nothing is open."""


def _without_use(options: jobs_pb2.RigOptions) -> list[str]:
    names = ", ".join(field.name for field, _ in options.ListFields())
    return [f"The geometric engine has no use for the options given: {names}."] if names else []
