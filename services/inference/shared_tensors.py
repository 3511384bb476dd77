"""Arrays side by side in one segment of shared memory, for a server on the same host."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux has it
# Of the place of each array, bytes.
_ALIGNMENT = 64


def segment_prefix(pid: int) -> str:
    """How the names of a process's segments begin."""
    return f"unirig_tensors_{pid}_"


@dataclass(frozen=True)
class Place:
    """Where an array lies in the segment, bytes."""

    offset: int
    size: int


class SharedTensors:
    """A segment with room for arrays of the given sizes in bytes, by name; none may be empty.

    OSError where the host has not so much shared memory. Should this process be killed, Python's
    resource tracker removes the segment.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.places: dict[str, Place] = {}
        self.size = 0
        for name, size in sizes.items():
            self.places[name] = Place(self.size, size)
            self.size += -(-size // _ALIGNMENT) * _ALIGNMENT
        self.name = f"{segment_prefix(os.getpid())}{secrets.token_hex(8)}"
        self._memory = SharedMemory(self.name, create=True, size=self.size)
        try:
            _reserve(_FOLDER / self.name, self.size)
        except OSError:
            self.close()
            raise

    @property
    def key(self) -> str:
        """The segment's name as POSIX has it."""
        return f"/{self.name}"

    def write(self, name: str, array: npt.NDArray[Any]) -> None:
        self._view(name, array.shape, array.dtype)[...] = array

    def read(self, name: str, shape: tuple[int, ...], dtype: type) -> npt.NDArray[Any]:
        """A copy."""
        return self._view(name, shape, np.dtype(dtype)).copy()

    def close(self) -> None:
        """Removes the segment; who has it mapped keeps it until they let go."""
        self._memory.close()
        self._memory.unlink()

    def _view(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        return np.ndarray(shape, dtype, self._memory.buf, self.places[name].offset)


def _reserve(path: Path, size: int) -> None:
    """Takes the memory now: a write into a segment that has none would end the process."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(handle, 0, size)
    finally:
        os.close(handle)
