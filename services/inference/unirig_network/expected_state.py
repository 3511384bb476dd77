"""What a full-size model's state dict holds, without its values."""

import torch

from services.inference.unirig_network.checkpoint_kinds import Kind
from services.inference.unirig_network.skeleton_model import SkeletonModel, SkeletonModelConfig
from services.inference.unirig_network.skin_model import SkinConfig, SkinModel


def expected_state(kind: Kind) -> dict[str, torch.Tensor]:
    """Names, shapes and types of the model's state dict, as tensors on the meta device."""
    with torch.device("meta"):
        if kind == "skeleton":
            return SkeletonModel(SkeletonModelConfig()).state_dict()
        return SkinModel(SkinConfig()).state_dict()
