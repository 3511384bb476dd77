"""The point branch of the skin network: a feature for each surface point.

A Point Transformer V3 (Wu et al. 2024) without pooling and without a decoder: every block works on
all points. A block convolves over neighbouring voxels, then attends within patches of consecutive
points along a space-filling curve. Names of modules are those of the official checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.inference.unirig_network.space_filling_curves import (
    CURVE_ORDER,
    CurveOrder,
    curve_codes,
    curve_orders,
)
from services.inference.unirig_network.submanifold_convolution import (
    IMPLICIT_GEMM,
    NATIVE_GPU,
    DuplicateRule,
    SubmanifoldConvolution,
    VoxelIndex,
    voxel_index,
)

# The side of a voxel; a model spans 2.
_VOXEL = 0.005
_STEM_KERNEL = 5
_BLOCK_KERNEL = 3
# Position, normal, and three channels that the reference leaves at zero.
_INPUTS = 9
# The name of the layer that leads into a stage.
_WIDEN = "0"
# The widest hidden layer is held for so many points at a time.
_POINTS_PER_SLICE = 32768


@dataclass(frozen=True)
class PointTransformerConfig:
    """channels, blocks, heads, patches: of each stage; a patch counts points.

    stem_rule, block_rule: what points of one voxel give each other in the convolutions.
    convolution_dtype, attention_dtype: of the products in either; everything else is float32.
    """

    channels: tuple[int, ...] = (32, 64, 128, 256, 384)
    blocks: tuple[int, ...] = (3, 3, 3, 6, 16)
    heads: tuple[int, ...] = (2, 4, 8, 16, 24)
    patches: tuple[int, ...] = (1024, 1024, 1024, 1024, 1024)
    stem_rule: DuplicateRule = NATIVE_GPU
    block_rule: DuplicateRule = IMPLICIT_GEMM
    convolution_dtype: torch.dtype = torch.float32
    attention_dtype: torch.dtype = torch.float32


class PointTransformer(nn.Module):
    def __init__(self, config: PointTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.enc = nn.ModuleDict(
            {f"enc{number}": _stage(config, number) for number in range(len(config.channels))}
        )

    def forward(
        self,
        points: Tensor,
        normals: Tensor,
        curves: Tensor,
        on_block: Callable[[float], None],
    ) -> Tensor:
        """points, normals: (N, 3) float32 -> (N, channels of the last stage) float32.

        curves: (4, N) int64, see surface_curves; the blocks of a stage take one after the other.
        on_block is called after each block with the share done, 0..1.
        """
        voxels = voxel_coordinates(points)
        features = torch.cat([points, normals, torch.zeros_like(points)], dim=1)
        x: Tensor = self.embedding(features, voxel_index(voxels, _STEM_KERNEL))
        index = voxel_index(voxels, _BLOCK_KERNEL)
        done = 0
        for stage, blocks in enumerate(self.config.blocks):
            if stage > 0:
                x = self.get_submodule(f"enc.enc{stage}.{_WIDEN}")(x)
            for block in range(blocks):
                curve = curves[block % len(curves)]
                x = self.get_submodule(f"enc.enc{stage}.block{block}")(x, index, curve)
                done += 1
                on_block(done / sum(self.config.blocks))
        return x


def _stage(config: PointTransformerConfig, number: int) -> nn.ModuleDict:
    """The blocks of a stage, all but the first stage after a layer that widens the features."""
    width = config.channels[number]
    stage = nn.ModuleDict()
    if number > 0:
        stage[_WIDEN] = nn.Linear(config.channels[number - 1], width)
    for block in range(config.blocks[number]):
        stage[f"block{block}"] = Block(config, number)
    return stage


class Embedding(nn.Module):
    def __init__(self, config: PointTransformerConfig) -> None:
        super().__init__()
        width = config.channels[0]
        self.stem = nn.ModuleDict(
            {
                "conv": SubmanifoldConvolution(
                    _INPUTS,
                    width,
                    _STEM_KERNEL,
                    config.stem_rule,
                    config.convolution_dtype,
                    bias=False,
                ),
                "norm": nn.BatchNorm1d(width, eps=1e-3),
            }
        )
        self.res_linear = nn.Linear(_INPUTS, width)

    def forward(self, features: Tensor, index: VoxelIndex) -> Tensor:
        """features: (N, 9); index: of the stem's kernel -> (N, channels of the first stage)."""
        convolved = self.stem["norm"](self.stem["conv"](features, index))
        y: Tensor = functional.gelu(convolved) + self.res_linear(features)
        return y


class Block(nn.Module):
    def __init__(self, config: PointTransformerConfig, stage: int) -> None:
        super().__init__()
        width = config.channels[stage]
        self.cpe = ConvolutionalPosition(config, width)
        self.norm1 = nn.Sequential(nn.LayerNorm(width))
        self.attn = PatchAttention(
            width, config.heads[stage], config.patches[stage], config.attention_dtype
        )
        self.norm2 = nn.Sequential(nn.LayerNorm(width))
        self.mlp = nn.Sequential(Mlp(width))

    def forward(self, x: Tensor, index: VoxelIndex, curve: Tensor) -> Tensor:
        """x: (N, width); curve: (N,) the points as they come along it -> (N, width)."""
        x = x + self.cpe(x, index)
        x = x + self.attn(self.norm1(x), curve)
        parts = [part + self.mlp(self.norm2(part)) for part in torch.split(x, _POINTS_PER_SLICE)]
        return torch.cat(parts)


class ConvolutionalPosition(nn.ModuleList):
    """What a point's place among its neighbours says: a convolution, a linear layer, a norm."""

    def __init__(self, config: PointTransformerConfig, width: int) -> None:
        super().__init__(
            [
                SubmanifoldConvolution(
                    width,
                    width,
                    _BLOCK_KERNEL,
                    config.block_rule,
                    config.convolution_dtype,
                    bias=True,
                ),
                nn.Linear(width, width),
                nn.LayerNorm(width),
            ]
        )

    def forward(self, x: Tensor, index: VoxelIndex) -> Tensor:
        convolution, linear, norm = self
        y: Tensor = norm(linear(convolution(x, index)))
        return y


class PatchAttention(nn.Module):
    """Attention among consecutive points of a curve; queries and keys are normalised."""

    def __init__(self, width: int, heads: int, patch: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = heads
        self.patch = patch
        self.dtype = dtype
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, curve: Tensor) -> Tensor:
        """x: (N, width); curve: (N,) the points as they come along it -> (N, width)."""
        padded = patched(curve, self.patch)
        packed = self.qkv(x)[padded].unflatten(1, (3, self.heads, -1))
        # (patches, points, q|k|v, heads, n) -> three of (patches, heads, points, n)
        by_patch = packed.unflatten(0, (-1, min(self.patch, len(curve)))).permute(2, 0, 3, 1, 4)
        query, key, value = by_patch.unbind()
        # The CPU's kernels of less than float32 are slow and round on the way; a GPU's do not.
        within = torch.float32 if x.device.type == "cpu" else self.dtype
        attended = functional.scaled_dot_product_attention(
            _normed(query).to(self.dtype).to(within),
            _normed(key).to(self.dtype).to(within),
            value.to(self.dtype).to(within),
        )
        along_curve = attended.to(self.dtype).float().transpose(1, 2).flatten(2).flatten(0, 1)
        out = torch.empty_like(x)
        out[curve] = along_curve[: len(curve)]
        y: Tensor = self.proj(out)
        return y


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return y


def voxel_coordinates(points: Tensor) -> Tensor:
    """The voxel of each point, counted from the lowest corner: (N, 3) float32 -> (N, 3) int32."""
    return ((points - points.amin(dim=0)) / _VOXEL).int()


def surface_curves(points: Tensor, curve_order: CurveOrder = CURVE_ORDER) -> Tensor:
    """The points as they come along four space-filling curves: (N, 3) float32 -> (4, N) int64."""
    return curve_orders(curve_codes(voxel_coordinates(points)))[list(curve_order)]


def patched(curve: Tensor, patch: int) -> Tensor:
    """(N,) points along a curve, with points repeated at the end so that all patches are full.

    What the last patch lacks comes from the same places of the one before. A cloud that fits into
    one patch is one patch.
    """
    rest = len(curve) % patch
    if rest == 0 or len(curve) < patch:
        return curve
    return torch.cat([curve, curve[len(curve) - patch : len(curve) - rest]])


def _normed(heads: Tensor) -> Tensor:
    return functional.layer_norm(heads, heads.shape[-1:])
