"""The encoder of surface samples into latents (UniRig, section 4; a Perceiver as in Michelangelo).

The queries are not learned: they are points of the cloud itself, chosen by farthest point
sampling. Names of modules are those of the official checkpoints.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

# Queries are sampled from this many times as many points, drawn with a seed that never changes.
_CANDIDATES_PER_QUERY = 4
_CANDIDATE_SEED = 0


@dataclass(frozen=True)
class ShapeEncoderConfig:
    """width: channels of the latents. tokens: how many latents. frequencies: octaves per axis."""

    width: int = 512
    heads: int = 8
    layers: int = 16
    tokens: int = 1024
    frequencies: int = 8

    @property
    def features(self) -> int:
        """Channels of a point: position, its sines and cosines, normal."""
        return 3 + 2 * 3 * self.frequencies + 3


class ShapeEncoder(nn.Module):
    """Latents (B, tokens, width) of point clouds in [-1, 1]."""

    def __init__(self, config: ShapeEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PointPerceiver(config)

    def forward(self, points: Tensor, normals: Tensor) -> Tensor:
        """points, normals: (B, N, 3) float32 -> (B, tokens, width) in the weights' dtype."""
        chosen = query_indices(points, self.config.tokens)
        features = point_features(points, normals, self.config.frequencies)
        latents: Tensor = self.encoder(features.to(self.encoder.input_proj.weight.dtype), chosen)
        return latents


class PointPerceiver(nn.Module):
    def __init__(self, config: ShapeEncoderConfig) -> None:
        super().__init__()
        self.input_proj = nn.Linear(config.features, config.width)
        self.cross_attn = CrossAttentionBlock(config.width, config.heads)
        self.self_attn = SelfAttentionBlocks(config)
        self.ln_post = nn.LayerNorm(config.width)

    def forward(self, features: Tensor, chosen: Tensor) -> Tensor:
        """features: (B, N, features); chosen: (B, T) indices of the queries -> (B, T, width)."""
        data = self.input_proj(features)
        queries = data.gather(1, chosen.unsqueeze(-1).expand(-1, -1, data.shape[-1]))
        latents = self.self_attn(self.cross_attn(queries, data))
        normed: Tensor = self.ln_post(latents)
        return normed


class SelfAttentionBlocks(nn.Module):
    def __init__(self, config: ShapeEncoderConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            SelfAttentionBlock(config.width, config.heads) for _ in range(config.layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class CrossAttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = CrossAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.ln_2 = nn.LayerNorm(width)
        self.ln_3 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, data: Tensor) -> Tensor:
        """x: (B, T, width) attends to data: (B, N, width)."""
        x = x + self.attn(self.ln_1(x), self.ln_2(data))
        y: Tensor = x + self.mlp(self.ln_3(x))
        return y


class SelfAttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Mlp(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        y: Tensor = x + self.mlp(self.ln_2(x))
        return y


class CrossAttention(nn.Module):
    """Keys and values are packed per head: [head][k | v]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_q = nn.Linear(width, width, bias=False)
        self.c_kv = nn.Linear(width, 2 * width, bias=False)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, data: Tensor) -> Tensor:
        query = _by_head(self.c_q(x), self.heads)
        key, value = _by_head(self.c_kv(data), self.heads).chunk(2, dim=-1)
        y: Tensor = self.c_proj(_attend(query, key, value))
        return y


class SelfAttention(nn.Module):
    """Queries, keys and values are packed per head: [head][q | k | v]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_qkv = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = _by_head(self.c_qkv(x), self.heads).chunk(3, dim=-1)
        y: Tensor = self.c_proj(_attend(query, key, value))
        return y


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c_proj(functional.gelu(self.c_fc(x)))
        return y


def point_features(points: Tensor, normals: Tensor, frequencies: int) -> Tensor:
    """Fourier features of positions, then the normals: (B, N, 3), (B, N, 3) -> (B, N, features).

    The frequencies are 1, 2, 4, … without pi; those of one axis stand together.
    """
    octaves = 2.0 ** torch.arange(frequencies, device=points.device, dtype=points.dtype)
    angles = (points.unsqueeze(-1) * octaves).flatten(-2)
    return torch.cat([points, angles.sin(), angles.cos(), normals], dim=-1)


def query_indices(points: Tensor, tokens: int) -> Tensor:
    """The points that become queries, in the order they were chosen: (B, N, 3) -> (B, tokens)."""
    candidates = candidate_indices(points.shape[1], tokens).to(points.device)
    return candidates[farthest_points(points[:, candidates], tokens)]


def candidate_indices(count: int, tokens: int) -> Tensor:
    """The subset of count points from which tokens queries are chosen: (4 * tokens,) int64.

    It depends on count alone. Its order matters, and points repeat where there are too few.
    """
    size = _CANDIDATES_PER_QUERY * tokens
    generator = np.random.default_rng(seed=_CANDIDATE_SEED)
    return torch.from_numpy(generator.choice(count, size, replace=size > count))


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Farthest point sampling from the first point: (B, M, 3) -> (B, count) int64.

    It runs on the CPU in float32, so that every device chooses the same points; of equally far
    ones the first is taken.
    """
    cloud = points.detach().float().cpu()
    rows = torch.arange(len(cloud))
    chosen = torch.zeros(len(cloud), count, dtype=torch.int64)
    distances = torch.full(cloud.shape[:2], torch.inf)
    for place in range(1, count):
        offsets = cloud - cloud[rows, chosen[:, place - 1]].unsqueeze(1)
        distances = torch.minimum(distances, offsets.square().sum(dim=-1))
        chosen[:, place] = distances.argmax(dim=-1)
    return chosen.to(points.device)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(B, T, heads * n) -> (B, heads, T, n)."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Plain attention, heads joined again: (B, heads, T, n) -> (B, T, heads * n)."""
    attended = functional.scaled_dot_product_attention(query, key, value)
    return attended.transpose(1, 2).flatten(-2)
