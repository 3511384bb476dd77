"""Which program predicts skeletons and weights."""

import sys
from dataclasses import dataclass
from pathlib import Path

from services.inference import geometric


@dataclass(frozen=True)
class Engine:
    """A program with two commands, from files to files (see limited_process):

    `skeleton MESH_NPZ SKELETON_NPZ` and `skin MESH_NPZ SKELETON_NPZ WEIGHTS_NPZ`.
    """

    name: str
    version: str
    program: tuple[str, ...]

    def skeleton_command(self, mesh: Path, skeleton: Path) -> list[str]:
        return [*self.program, "skeleton", str(mesh), str(skeleton)]

    def skin_command(self, mesh: Path, skeleton: Path, weights: Path) -> list[str]:
        return [*self.program, "skin", str(mesh), str(skeleton), str(weights)]


GEOMETRIC = Engine(geometric.NAME, geometric.VERSION, (sys.executable, "-m", geometric.__name__))

ENGINES = {engine.name: engine for engine in (GEOMETRIC,)}
