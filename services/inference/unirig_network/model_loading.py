"""From a converted checkpoint to a model that predicts, of the size that the checkpoint says."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from services.inference.unirig_network.checkpoint_kinds import Kind
from services.inference.unirig_network.checkpoint_loading import (
    corrupt_checkpoint,
    load_state,
    read_metadata,
)
from services.inference.unirig_network.point_transformer import PointTransformerConfig
from services.inference.unirig_network.shape_encoder import ShapeEncoderConfig
from services.inference.unirig_network.skeleton_model import (
    SkeletonModel,
    SkeletonModelConfig,
    load_skeleton_model,
)
from services.inference.unirig_network.skeleton_transformer import TransformerConfig
from services.inference.unirig_network.skin_model import SkinConfig, SkinModel, mixed_precision

_Config = TypeVar("_Config", SkeletonModelConfig, SkinConfig)


def load_skeleton(path: Path, device: torch.device) -> SkeletonModel:
    """The skeleton model in path: bfloat16 on a GPU, float32 on a CPU.

    Raises CheckpointMissingError, CheckpointCorruptError, torch.OutOfMemoryError.
    """
    config = _config(path, "skeleton", skeleton_config)
    with torch.device("meta"):
        expected = SkeletonModel(config).state_dict()
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    return load_skeleton_model(config, load_state(path, expected), device, dtype)


def load_skin(path: Path, device: torch.device) -> SkinModel:
    """The skin model in path: of mixed precision on a GPU, float32 on a CPU.

    Raises CheckpointMissingError, CheckpointCorruptError, torch.OutOfMemoryError.
    """
    config = _config(path, "skin", skin_config)
    if device.type != "cpu":
        config = mixed_precision(config)
    with torch.device("meta"):
        model = SkinModel(config)
    model.load_state_dict(load_state(path, model.state_dict()), strict=True, assign=True)
    return model.to(device).requires_grad_(False).eval()


def expected_state_of(path: Path, kind: Kind) -> dict[str, torch.Tensor]:
    """What the model's state dict holds, on the meta device, of the size that path says.

    Raises CheckpointMissingError, CheckpointCorruptError.
    """
    if kind == "skeleton":
        skeleton = _config(path, kind, skeleton_config)
        with torch.device("meta"):
            return SkeletonModel(skeleton).state_dict()
    skin = _config(path, kind, skin_config)
    with torch.device("meta"):
        return SkinModel(skin).state_dict()


def skeleton_config(sizes: Mapping[str, Any]) -> SkeletonModelConfig:
    """sizes: by the names of the configs' fields, {"encoder": …, "transformer": …}.

    What is left out is of the official size. TypeError where a name is unknown.
    """
    return SkeletonModelConfig(
        encoder=ShapeEncoderConfig(**sizes.get("encoder", {})),
        transformer=TransformerConfig(**sizes.get("transformer", {})),
    )


def skin_config(sizes: Mapping[str, Any]) -> SkinConfig:
    """sizes: likewise, the numbers of SkinConfig and {"points": …, "shape": …}."""
    own = {name: size for name, size in sizes.items() if name not in ("points", "shape")}
    points: dict[str, Any] = {name: tuple(size) for name, size in sizes.get("points", {}).items()}
    return SkinConfig(
        **own,
        points=PointTransformerConfig(**points),
        shape=ShapeEncoderConfig(**sizes.get("shape", {})),
    )


def _config(path: Path, kind: Kind, build: Callable[[Mapping[str, Any]], _Config]) -> _Config:
    metadata = read_metadata(path)
    if metadata.kind != kind:
        raise corrupt_checkpoint(path, f"it is the {metadata.kind} model's, not the {kind} model's")
    try:
        return build(json.loads(metadata.config or "{}"))
    except (TypeError, ValueError, AttributeError) as error:
        raise corrupt_checkpoint(path, f"its sizes cannot be read: {error}") from error
