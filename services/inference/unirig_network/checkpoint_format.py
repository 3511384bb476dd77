"""The converted checkpoint: a safetensors file whose metadata says what it is and checks it."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from services.inference.unirig_network.checkpoint_errors import CheckpointCorruptError
from services.inference.unirig_network.checkpoint_kinds import KINDS, Kind

FORMAT_VERSION = "1"


@dataclass(frozen=True)
class CheckpointMetadata:
    """What a converted file says of itself.

    kind: which of the two models it belongs to.
    source_sha256: of the file it was converted from, hexadecimal.
    tensors_sha256: of its own tensors (tensors_sha256), hexadecimal.
    format_version: of this layout.
    config: the sizes in which the model differs from the official one, as JSON; None for none.
    """

    kind: Kind
    source_sha256: str
    tensors_sha256: str
    format_version: str = FORMAT_VERSION
    config: str | None = None

    def as_texts(self) -> dict[str, str]:
        """The metadata as safetensors keeps it."""
        return {name: text for name, text in asdict(self).items() if text is not None}


def checkpoint_path(folder: Path, kind: Kind) -> Path:
    """Where the converted checkpoint lies in a model folder."""
    return folder / f"{kind}.safetensors"


def metadata_from_texts(texts: Mapping[str, str], name: str) -> CheckpointMetadata:
    """The metadata of the file called name, or CheckpointCorruptError where it has none of ours."""
    kinds = [kind for kind in KINDS if kind == texts.get("kind")]
    if texts.get("format_version") != FORMAT_VERSION or not kinds:
        raise CheckpointCorruptError(
            f"{name} is no checkpoint in format {FORMAT_VERSION} of this service"
        )
    return CheckpointMetadata(
        kinds[0],
        texts.get("source_sha256", ""),
        texts.get("tensors_sha256", ""),
        config=texts.get("config"),
    )


def tensors_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and little-endian bytes of all tensors, by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
