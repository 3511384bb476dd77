"""Submanifold sparse convolution over points that lie in voxels, in plain PyTorch.

The output has the points of the input and no others (Graham et al. 2018, "3D Semantic Segmentation
with Submanifold Sparse Convolutional Networks"). Weights are laid out as spconv's:
(Cout, k, k, k, Cin), the taps along x, y, z; tap t of an axis looks t - k // 2 voxels ahead.

Points are not merged where several share a voxel, so what they give each other is a matter of the
rule under which the weights were trained: see DuplicateRule.
"""

from dataclasses import dataclass
from enum import Enum, auto
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class Flow(Enum):
    """What flows from a neighbouring voxel into a voxel, where either may hold several points.

    Each voxel keeps one of its points; the centre tap is each point's own feature in any case.
    """

    KEPT_TO_ALL = auto()  # every point here reads the kept point there
    KEPT_TO_KEPT = auto()  # the kept point here reads the kept point there, others read nothing
    SUM_TO_KEPT = auto()  # the kept point here reads the sum of all there, others read nothing


@dataclass(frozen=True)
class DuplicateRule:
    """kept: the point that a voxel keeps, by its index. before, after: the flow through the taps
    before and after the centre one, counted with z fastest."""

    kept: Literal["first", "last"]
    before: Flow
    after: Flow


# spconv 2.3.8. On a GPU the kept point is whichever thread wrote last; the last point models that
# race in a way that can be repeated. There kernels of 3³ taps run as implicit GEMM, those of 5³ by
# the native algorithm; the CPU build has only the latter and keeps the first point.
IMPLICIT_GEMM = DuplicateRule("last", Flow.KEPT_TO_ALL, Flow.KEPT_TO_KEPT)
NATIVE_GPU = DuplicateRule("last", Flow.SUM_TO_KEPT, Flow.KEPT_TO_ALL)
NATIVE_CPU = DuplicateRule("first", Flow.SUM_TO_KEPT, Flow.KEPT_TO_ALL)


@dataclass(frozen=True)
class VoxelIndex:
    """The V occupied voxels of N points and which of them are neighbours; all int64.

    voxel_of_point: (N,). points_by_voxel: (N,) points sorted by voxel, then by index.
    counts: (V,) points in each voxel. first, last: (V,) its first and last point.
    pairs: for each tap before the centre two (P,) lists of voxels, here and there: the tap at
    `here` falls on `there`. The opposite tap at `there` then falls on `here`.
    """

    voxel_of_point: Tensor
    points_by_voxel: Tensor
    counts: Tensor
    first: Tensor
    last: Tensor
    pairs: tuple[tuple[Tensor, Tensor], ...]


def voxel_index(coordinates: Tensor, kernel: int) -> VoxelIndex:
    """coordinates: (N, 3) integers >= 0, the voxels of the points. kernel: taps per axis, odd."""
    reach = kernel // 2
    # A margin on each side: a neighbour outside the grid never takes another voxel's key.
    sides = coordinates.amax(dim=0).long() + 1 + 2 * reach
    strides = torch.stack([sides[1] * sides[2], sides[2], torch.ones_like(sides[2])])
    keys = ((coordinates.long() + reach) * strides).sum(dim=1)
    sorted_keys, points_by_voxel = keys.sort(stable=True)
    voxels, sorted_voxel, counts = torch.unique_consecutive(
        sorted_keys, return_inverse=True, return_counts=True
    )
    ends = counts.cumsum(dim=0)
    return VoxelIndex(
        voxel_of_point=torch.empty_like(sorted_voxel).scatter_(0, points_by_voxel, sorted_voxel),
        points_by_voxel=points_by_voxel,
        counts=counts,
        first=points_by_voxel[ends - counts],
        last=points_by_voxel[ends - 1],
        pairs=_neighbours(voxels, strides, kernel),
    )


def _neighbours(voxels: Tensor, strides: Tensor, kernel: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """VoxelIndex.pairs of sorted keys (V,)."""
    taps = torch.tensor(list(product(range(kernel), repeat=3))) - kernel // 2
    steps = (taps[: len(taps) // 2].to(strides.device) * strides).sum(dim=1)
    pairs = []
    for step in steps:
        wanted = voxels + step
        # A tap before the centre looks at smaller keys, so the place found is never past the end.
        place = torch.searchsorted(voxels, wanted)
        here = (voxels[place] == wanted).nonzero().squeeze(1)
        pairs.append((here, place[here]))
    return tuple(pairs)


def submanifold_convolution(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    index: VoxelIndex,
    rule: DuplicateRule,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """features: (N, Cin) float32; weight: (Cout, k, k, k, Cin) with the k of the index; bias:
    (Cout,) -> (N, Cout) float32. dtype: of the products; sums are float32.

    The taps run one after the other, so that only one tap's products are in memory at a time, and
    the sums have the same order at every call, on a GPU too.
    """
    taps = weight.to(dtype).flatten(1, 3).unbind(dim=1)
    centre = len(taps) // 2
    kept_point = index.last if rule.kept == "last" else index.first
    sources = {
        flow: _source(flow, features, kept_point, index).to(dtype)
        for flow in (rule.before, rule.after)
    }
    voxel_sums = features.new_zeros(len(kept_point), len(weight))
    kept_sums = torch.zeros_like(voxel_sums)
    for tap, (here, there) in enumerate(index.pairs):
        for flow, into, out_of, matrix in (
            (rule.before, here, there, taps[tap]),
            (rule.after, there, here, taps[-1 - tap]),
        ):
            if len(into):
                products = functional.linear(sources[flow].index_select(0, out_of), matrix).float()
                sums = voxel_sums if flow is Flow.KEPT_TO_ALL else kept_sums
                sums.index_add_(0, into, products)
    out = functional.linear(features.to(dtype), taps[centre]).float()
    out += voxel_sums.index_select(0, index.voxel_of_point)
    out.index_add_(0, kept_point, kept_sums)
    return out if bias is None else out + bias


def _source(flow: Flow, features: Tensor, kept_point: Tensor, index: VoxelIndex) -> Tensor:
    """What each voxel gives its neighbours: (V, Cin)."""
    if flow is Flow.SUM_TO_KEPT:
        by_voxel = features.index_select(0, index.points_by_voxel)
        return torch.segment_reduce(by_voxel, "sum", lengths=index.counts, axis=0)
    return features.index_select(0, kept_point)


class SubmanifoldConvolution(nn.Module):
    """A convolution of kernel³ taps, called with an index of the same kernel."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        rule: DuplicateRule,
        dtype: torch.dtype,
        bias: bool,
    ) -> None:
        super().__init__()
        self.rule = rule
        self.dtype = dtype
        self.weight = nn.Parameter(torch.empty(outputs, kernel, kernel, kernel, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.normal_(self.weight, std=(kernel**3 * inputs) ** -0.5)

    def forward(self, features: Tensor, index: VoxelIndex) -> Tensor:
        """(N, inputs) float32 -> (N, outputs) float32."""
        return submanifold_convolution(
            features, self.weight, self.bias, index, self.rule, self.dtype
        )
