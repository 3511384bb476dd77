"""Sparse convolution and the orders of points along space-filling curves."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from services.inference.unirig_network.parity_skin import convolution_comparisons
from services.inference.unirig_network.space_filling_curves import (
    curve_codes,
    hilbert_codes,
    z_order_codes,
)
from services.inference.unirig_network.submanifold_convolution import (
    IMPLICIT_GEMM,
    NATIVE_CPU,
    NATIVE_GPU,
    DuplicateRule,
    submanifold_convolution,
    voxel_index,
)

REFERENCE = Path(__file__).parents[3] / "shared" / "golden" / "spconv_subm_real.pt"

RULES = pytest.mark.parametrize("rule", [IMPLICIT_GEMM, NATIVE_GPU, NATIVE_CPU])


def convolved(coordinates: list[tuple[int, int, int]], rule: DuplicateRule) -> list[float]:
    """Point i has the value 10**i; every tap weighs 1."""
    points = torch.tensor(coordinates)
    features = 10.0 ** torch.arange(len(points)).unsqueeze(1)
    index = voxel_index(points, 3)
    out = submanifold_convolution(features, torch.ones(1, 3, 3, 3, 1), None, index, rule)
    values: list[float] = out.squeeze(1).tolist()
    return values


def all_voxels(side: int) -> Tensor:
    return torch.cartesian_prod(*3 * [torch.arange(side)])


def test_sparse_convolutions_match_the_reference() -> None:
    if not REFERENCE.is_file():
        pytest.skip(f"the reference's outputs are not beside the checkout ({REFERENCE})")
    comparisons = list(convolution_comparisons(REFERENCE))
    assert len(comparisons) >= 4
    assert [comparison for comparison in comparisons if not comparison.holds] == []


@RULES
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_full_grid_is_convolved_as_a_dense_one(rule: DuplicateRule, kernel: int) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(6**3, 4, generator=generator)
    weight = torch.randn(7, kernel, kernel, kernel, 4, generator=generator)
    bias = torch.randn(7, generator=generator)
    index = voxel_index(all_voxels(6), kernel)
    out = submanifold_convolution(features, weight, bias, index, rule)
    grid = features.T.view(1, 4, 6, 6, 6)
    dense = functional.conv3d(grid, weight.permute(0, 4, 1, 2, 3), bias, padding=kernel // 2)
    torch.testing.assert_close(out, dense[0].flatten(1).T, rtol=1e-4, atol=1e-4)


@RULES
def test_the_far_side_of_the_grid_is_no_neighbour(rule: DuplicateRule) -> None:
    assert convolved([(0, 0, 0), (0, 0, 3), (0, 3, 0), (3, 3, 3)], rule) == [1, 10, 100, 1000]


# Two points in one voxel (1, 10), two in the voxel after it (100, 1000).
PAIRS = [(0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 0, 1)]


def test_implicit_gemm_lets_only_the_kept_point_look_ahead() -> None:
    assert convolved(PAIRS, IMPLICIT_GEMM) == [1, 10 + 1000, 100 + 10, 1000 + 10]


def test_the_native_algorithm_sums_what_is_before_the_kept_point() -> None:
    assert convolved(PAIRS, NATIVE_GPU) == [1 + 1000, 10 + 1000, 100, 1000 + 1 + 10]
    assert convolved(PAIRS, NATIVE_CPU) == [1 + 100, 10 + 100, 100 + 1 + 10, 1000]


def test_half_precision_products_are_summed_in_full() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(64, 8, generator=generator)
    weight = torch.randn(8, 3, 3, 3, 8, generator=generator)
    index = voxel_index(all_voxels(4), 3)
    full = submanifold_convolution(features, weight, None, index, IMPLICIT_GEMM)
    half = submanifold_convolution(features, weight, None, index, IMPLICIT_GEMM, torch.float16)
    assert half.dtype == torch.float32
    assert (half - full).abs().max() < 0.003 * full.abs().max()


def test_consecutive_points_of_the_hilbert_curve_touch() -> None:
    voxels = all_voxels(16)
    codes = hilbert_codes(voxels, 4)
    assert codes.sort().values.tolist() == list(range(16**3))
    steps = voxels[codes.argsort()].diff(dim=0).abs().sum(dim=1)
    assert (steps == 1).all()


def test_the_z_order_interleaves_the_bits() -> None:
    assert z_order_codes(torch.tensor([[0b11, 0b00, 0b01]]), 2).tolist() == [0b100_101]


def test_the_second_of_each_curve_exchanges_x_and_y() -> None:
    voxels = all_voxels(8)
    codes, exchanged = curve_codes(voxels), curve_codes(voxels[:, [1, 0, 2]])
    assert torch.equal(codes[[0, 2]], exchanged[[1, 3]])


def test_a_grid_too_fine_for_a_code_is_refused() -> None:
    with pytest.raises(ValueError, match="22 bits"):
        curve_codes(torch.tensor([[0, 0, 0], [1 << 21, 0, 0]]))
