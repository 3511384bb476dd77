"""Loads a converted checkpoint, strictly and checked."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from services.inference.unirig_network.checkpoint_errors import (
    FETCH_COMMAND,
    CheckpointCorruptError,
    CheckpointMissingError,
)
from services.inference.unirig_network.checkpoint_format import (
    CheckpointMetadata,
    metadata_from_texts,
    tensors_sha256,
)
from services.inference.unirig_network.checkpoint_mismatch import mismatch_report


@dataclass(frozen=True)
class Checkpoint:
    """A model's weights on the CPU, by name, and what their file says of itself."""

    state: dict[str, torch.Tensor]
    metadata: CheckpointMetadata


def load_state(path: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict in path, ready for a strict load_state_dict; see load_checkpoint."""
    return load_checkpoint(path, expected).state


def load_checkpoint(path: Path, expected: Mapping[str, torch.Tensor]) -> Checkpoint:
    """The weights in path. Every byte is read once, for the checksum.

    expected: the model's state dict, on the meta device. Names, shapes and types must be exactly
    those.

    Raises CheckpointMissingError where there is no file (the text holds the command that fetches
    it) and CheckpointCorruptError where it is cut short, altered, another model's or may not be
    read.
    """
    checkpoint = _read(path)
    report = mismatch_report(checkpoint.state, expected)
    if report:
        raise corrupt_checkpoint(path, f"it is another model's\n{report}")
    if tensors_sha256(checkpoint.state) != checkpoint.metadata.tensors_sha256:
        raise corrupt_checkpoint(path, "its checksum is wrong")
    return checkpoint


def read_metadata(path: Path) -> CheckpointMetadata:
    """What the file in path says of itself; nothing is checked. Raises as load_checkpoint does."""
    with _opened(path) as file:
        return metadata_from_texts(file.metadata() or {}, path.name)


def _read(path: Path) -> Checkpoint:
    with _opened(path) as file:
        metadata = metadata_from_texts(file.metadata() or {}, path.name)
        return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, metadata)  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        # First, as safetensors says of a file that it may not read that there is none.
        path.open("rb").close()
        with safe_open(path, framework="pt") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointMissingError(f"no checkpoint at {path}: run {FETCH_COMMAND}") from error
    except PermissionError as error:
        reason = f"the user {os.geteuid()} may not read it (chmod -R a+rX {path.parent})"
        raise corrupt_checkpoint(path, reason) from error
    except (SafetensorError, OSError) as error:
        raise corrupt_checkpoint(path, str(error)) from error


def corrupt_checkpoint(path: Path, reason: str) -> CheckpointCorruptError:
    """The error for a checkpoint that is there but of no use, with what to do about it."""
    return CheckpointCorruptError(
        f"the checkpoint at {path} cannot be used: {reason}\nTo replace it, run {FETCH_COMMAND}"
    )
