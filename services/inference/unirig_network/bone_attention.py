"""Attention between bones, surface points and the latents of the whole shape.

One block serves twice: bones ask the shape, then surface points ask bones and shape. Norms stand
after the residual sums. Names of modules are those of the official checkpoints.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_FREQUENCIES = 6


class BoneAttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.ffn = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x: (Q, width) attends to context: (K, width) -> (Q, width)."""
        x = self.norm1(x + self.attention(x, context))
        y: Tensor = self.norm2(x + self.ffn(x))
        return y


class Attention(nn.Module):
    """Keys and values are packed as [all keys | all values], each by head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.Wq = nn.Linear(width, width)
        self.Wkv = nn.Linear(width, 2 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        key, value = self.Wkv(context).chunk(2, dim=-1)
        # The kernels that never hold all scores want a batch.
        attended = functional.scaled_dot_product_attention(
            self._by_head(self.Wq(x)), self._by_head(key), self._by_head(value)
        )
        y: Tensor = self.out_proj(attended.squeeze(0).transpose(0, 1).flatten(1))
        return y

    def _by_head(self, x: Tensor) -> Tensor:
        """(T, width) -> (1, heads, T, n)."""
        return x.view(len(x), self.heads, -1).transpose(0, 1).unsqueeze(0)


class BoneEncoder(nn.Module):
    """A feature for each bone, from where it is and what the shape is like."""

    def __init__(self, width: int, hidden: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.bone_encoder = nn.Sequential(
            BonePosition(),
            nn.Linear(3 + 2 * 3 * _FREQUENCIES, hidden),
            nn.LayerNorm(hidden),
            nn.GELU(),
            nn.Linear(hidden, 4 * hidden),
            nn.LayerNorm(4 * hidden),
            nn.GELU(),
            nn.Linear(4 * hidden, width),
            nn.LayerNorm(width),
            nn.GELU(),
        )
        self.attn = nn.ModuleList(BoneAttentionBlock(width, heads) for _ in range(blocks))

    def forward(self, joints: Tensor, latents: Tensor) -> Tensor:
        """joints: (J, 3) from the cloud's lowest corner; latents: (T, width) -> (J, width).

        Every block attends to the same context: the bones as they were at first, and the shape.
        """
        bones: Tensor = self.bone_encoder(joints)
        context = torch.cat([bones, latents])
        for block in self.attn:
            bones = block(bones, context)
        return bones


class BonePosition(nn.Module):
    """Fourier features of positions: (J, 3) -> (J, 39), the frequencies pi, 2 pi, 4 pi, ..."""

    def forward(self, joints: Tensor) -> Tensor:
        octaves = torch.pi * 2.0 ** torch.arange(_FREQUENCIES, device=joints.device)
        angles = (joints.unsqueeze(-1) * octaves).flatten(1)
        return torch.cat([joints, angles.sin(), angles.cos()], dim=1)
