"""The skeleton network: shape encoder, projection, transformer (UniRig, section 4)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from services.inference.unirig_network.shape_encoder import ShapeEncoder, ShapeEncoderConfig
from services.inference.unirig_network.skeleton_transformer import (
    SkeletonTransformer,
    TransformerConfig,
)
from services.inference.unirig_network.tokenizer import BOS


@dataclass(frozen=True)
class SkeletonModelConfig:
    encoder: ShapeEncoderConfig = field(default_factory=ShapeEncoderConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    @property
    def prefix(self) -> int:
        """Positions before the first generated token: the shape, bos, class."""
        return self.encoder.tokens + 2


class SkeletonModel(nn.Module):
    """Names of weights are those of the official checkpoints without their leading `model.`."""

    def __init__(self, config: SkeletonModelConfig) -> None:
        super().__init__()
        self.config = config
        self.mesh_encoder = ShapeEncoder(config.encoder)
        self.output_proj = nn.Linear(config.encoder.width, config.transformer.hidden)
        self.transformer = SkeletonTransformer(config.transformer)

    def condition(self, points: Tensor, normals: Tensor) -> Tensor:
        """What the transformer knows of a shape: (B, N, 3), (B, N, 3) -> (B, tokens, hidden).

        points: samples of the surface in [-1, 1], +Z up, facing -Y, float32. The condition is
        float32 whatever the weights are.
        """
        condition: Tensor = self.output_proj(self.mesh_encoder(points, normals)).float()
        return condition

    def prefix(self, condition: Tensor, class_token: int) -> Tensor:
        """The condition with bos and class behind it: (tokens, hidden) -> (prefix, hidden)."""
        start = torch.tensor([BOS, class_token], device=condition.device)
        return torch.cat([condition, self.transformer.embed(start)])

    def forward(self, condition: Tensor, tokens: Tensor) -> Tensor:
        """Logits after each token: (B, tokens, hidden), (B, T) int64 -> (B, T, vocabulary)."""
        embedded = torch.cat([condition, self.transformer.embed(tokens)], dim=1)
        logits: Tensor = self.transformer(embedded)[:, condition.shape[1] :]
        return logits


def load_skeleton_model(
    config: SkeletonModelConfig,
    weights: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SkeletonModel:
    """A model for inference with these weights; RuntimeError where names or shapes differ.

    dtype: of the shape encoder and of the transformer's matrices (bfloat16 on a GPU, float32 on a
    CPU). The transformer's residual stream, layer norms and logits are float32.
    """
    with torch.device("meta"):
        model = SkeletonModel(config)
    model.load_state_dict(weights, strict=True, assign=True)
    model.transformer.tie_weights()
    model.mesh_encoder.to(dtype)
    model.output_proj.to(dtype)
    model.transformer.cast_matrices(dtype)
    return model.to(device).requires_grad_(False).eval()
