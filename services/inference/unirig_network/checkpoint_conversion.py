"""From an official checkpoint (Lightning, torch.save) to a safetensors file of its weights."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from services.inference.unirig_network.checkpoint_archive import read_state_dict
from services.inference.unirig_network.checkpoint_errors import (
    CheckpointCorruptError,
    CheckpointError,
)
from services.inference.unirig_network.checkpoint_format import (
    CheckpointMetadata,
    file_sha256,
    tensors_sha256,
)
from services.inference.unirig_network.checkpoint_kinds import Kind
from services.inference.unirig_network.checkpoint_mismatch import mismatch_report
from services.inference.unirig_network.replaced_file import replacing

# Lightning's module keeps the network as its attribute `model`.
_PREFIX = "model."

# The output layer is tied to the token embedding; both names are in the checkpoint.
_TIED = ("transformer.model.decoder.embed_tokens.weight", "transformer.lm_head.weight")


def convert_checkpoint(
    source: Path, kind: Kind, target: Path, expected: Mapping[str, torch.Tensor]
) -> None:
    """Writes the weights in source to target, whole or not at all.

    expected: the model's state dict, on the meta device. Names (without the prefix `model.`),
    shapes and types must be exactly those.

    Raises CheckpointCorruptError where source is no such archive, is damaged, or holds another
    model (the text lists what differs), and CheckpointError where a file cannot be read or written.
    """
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in _prefixed(source).items()}
    report = mismatch_report(state, expected)
    if report:
        raise CheckpointCorruptError(
            f"{source.name} is not the {kind} model's checkpoint:\n{report}"
        )
    if all(name in state for name in _TIED) and not torch.equal(*(state[name] for name in _TIED)):
        raise CheckpointCorruptError(f"{source.name}: {_TIED[1]} differs from {_TIED[0]}")
    weights = _separate(state)
    metadata = CheckpointMetadata(kind, file_sha256(source), tensors_sha256(weights))
    try:
        with replacing(target) as temporary:
            save_file(weights, temporary, metadata.as_texts())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {target}: {error}") from error


def _prefixed(source: Path) -> dict[str, torch.Tensor]:
    state = read_state_dict(source)
    strangers = [name for name in state if not name.startswith(_PREFIX)]
    if strangers:
        raise CheckpointCorruptError(
            f"{source.name}: {len(strangers)} names do not start with {_PREFIX!r}, such as"
            f" {strangers[0]!r}"
        )
    return state


def _separate(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, contiguous, each with memory of its own.

    safetensors keeps no shared memory: the tied layer (1 MB) is stored under both of its names, so
    that loading stays strict.
    """
    seen: set[int] = set()
    result = {}
    for name, tensor in state.items():
        address = tensor.untyped_storage().data_ptr()
        own = tensor.clone() if address in seen else tensor
        result[name] = own.contiguous()
        seen.add(address)
    return result
