"""Checkpoints of tiny networks with random weights, which every size of job passes in seconds.

The skeleton network's weights are random but for a few: whatever it sees, it likes joints in the
middle of the model, half of them branches, and never an end, so that a skeleton takes all the
tokens that it may, or has as many joints as it may. A token takes some milliseconds.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from services.inference.unirig_network.checkpoint_format import (
    CheckpointMetadata,
    checkpoint_path,
    tensors_sha256,
)
from services.inference.unirig_network.checkpoint_kinds import Kind
from services.inference.unirig_network.model_loading import skeleton_config, skin_config
from services.inference.unirig_network.skeleton_model import SkeletonModel
from services.inference.unirig_network.skin_model import SkinModel
from services.inference.unirig_network.tokenizer import BRANCH, EOS, PART_TOKENS, SPRING

# A skeleton has 16 to 39 joints, and takes below a second.
MAX_TOKENS = 120
# A skeleton takes some ten seconds: time to look at it, cancel it or pull the plug.
LONG_TOKENS = 2000
SKELETON_SIZES: dict[str, Any] = {
    "encoder": {"width": 32, "heads": 4, "layers": 1, "tokens": 16},
    "transformer": {"layers": 4, "hidden": 128, "heads": 4, "inner": 256, "positions": 2048},
}
SKIN_SIZES: dict[str, Any] = {
    "width": 32,
    "heads": 4,
    "bone_width": 32,
    "bone_blocks": 1,
    "mesh_blocks": 2,
    "read_out_width": 16,
    "points": {"channels": [8, 16], "blocks": [1, 1], "heads": [1, 2], "patches": [256, 256]},
    "shape": {"width": 32, "heads": 4, "layers": 1, "tokens": 16},
}

# Bins within ±0.2, where joints are inside the padded bounds of any model.
_MIDDLE = slice(104, 152)
_LIKING = 12.0
_BRANCHING = 1.3


def write_tiny_checkpoints(folder: Path) -> Path:
    """skeleton.safetensors and skin.safetensors in folder, made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, "skeleton", _skeleton_weights(), SKELETON_SIZES)
    _write(folder, "skin", _skin_weights(), SKIN_SIZES)
    return folder


def tiny_settings(folder: Path, max_tokens: int = MAX_TOKENS) -> dict[str, str]:
    """The environment of a Triton server with these checkpoints. max_tokens: of a skeleton, at
    most LONG_TOKENS."""
    return {
        "UNIRIG_MODEL_FOLDER": str(folder),
        "UNIRIG_SLOTS": "3",
        "UNIRIG_BEAMS": "3",
        "UNIRIG_MAX_TOKENS": str(max_tokens),
        "UNIRIG_THREADS": "1",
    }


def _skeleton_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weights = SkeletonModel(skeleton_config(SKELETON_SIZES)).state_dict()
    embedding = weights["transformer.model.decoder.embed_tokens.weight"]
    # The last norm adds this direction to whatever it is given, and tokens like it or not.
    direction = torch.nn.functional.normalize(torch.randn(embedding.shape[1]), dim=0)
    weights["transformer.model.decoder.final_layer_norm.bias"] += _LIKING * direction
    embedding *= 0.1
    embedding[_MIDDLE] += direction
    embedding[BRANCH] += _BRANCHING * direction
    embedding[[EOS, SPRING, *PART_TOKENS.values()]] -= 2 * direction
    return weights


def _skin_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return SkinModel(skin_config(SKIN_SIZES)).state_dict()


def _write(
    folder: Path, kind: Kind, weights: Mapping[str, torch.Tensor], sizes: Mapping[str, Any]
) -> None:
    tensors = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
    metadata = CheckpointMetadata(
        kind, source_sha256="", tensors_sha256=tensors_sha256(tensors), config=json.dumps(sizes)
    )
    save_file(tensors, checkpoint_path(folder, kind), metadata.as_texts())
