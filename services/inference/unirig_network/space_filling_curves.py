"""Four orders of a cloud's points along space-filling curves.

Neighbours along a curve are neighbours in space, so consecutive points make patches for attention.
The curves: z-order, z-order with x and y exchanged, Hilbert (Skilling 2004, "Programming the
Hilbert curve"), Hilbert with x and y exchanged.
"""

import torch
from torch import Tensor

CurveOrder = tuple[int, int, int, int]

# Which curve comes first, second, ... in every block that uses them in turn. The reference draws
# it anew at each call; here it is fixed, so that a request's result can be repeated.
CURVE_ORDER: CurveOrder = (0, 1, 2, 3)

# Three axes of so many bits fill a positive int64.
_MAX_DEPTH = 21


def seeded_curve_order(seed: int) -> CurveOrder:
    """The order that the reference draws after torch.manual_seed(seed)."""
    generator = torch.Generator().manual_seed(seed)
    first, second, third, fourth = torch.randperm(4, generator=generator).tolist()
    return first, second, third, fourth


def curve_codes(coordinates: Tensor) -> Tensor:
    """Where each voxel stands on each curve: (N, 3) integers >= 0 -> (4, N) int64.

    Raises ValueError if the grid has more than 2**21 voxels along an axis.
    """
    depth = curve_depth(coordinates)
    straight = coordinates.long()
    exchanged = straight[:, [1, 0, 2]]
    return torch.stack(
        [
            z_order_codes(straight, depth),
            z_order_codes(exchanged, depth),
            hilbert_codes(straight, depth),
            hilbert_codes(exchanged, depth),
        ]
    )


def curve_orders(codes: Tensor) -> Tensor:
    """The points as they come along each curve: (4, N) codes -> (4, N) int64.

    Points of one voxel keep their order.
    """
    return codes.argsort(dim=1, stable=True)


def curve_depth(coordinates: Tensor) -> int:
    """How many bits an axis needs. Raises ValueError if too many for an int64 code."""
    depth = int(coordinates.max()).bit_length()
    if depth > _MAX_DEPTH:
        raise ValueError(f"the points span {depth} bits of voxels an axis, {_MAX_DEPTH} at most")
    return depth


def z_order_codes(coordinates: Tensor, depth: int) -> Tensor:
    """(N, 3) int64 -> (N,) int64: bits 3i+2, 3i+1, 3i of a code are bit i of x, y, z."""
    code = torch.zeros_like(coordinates[:, 0])
    for bit in range(depth):
        for axis in range(3):
            code |= ((coordinates[:, axis] >> bit) & 1) << (3 * bit + 2 - axis)
    return code


def hilbert_codes(coordinates: Tensor, depth: int) -> Tensor:
    """(N, 3) int64 -> (N,) int64: the distance along the curve through a grid of 2**depth."""
    axes = list(coordinates.unbind(dim=1))
    for bit in reversed(range(depth)):
        lower = (1 << bit) - 1
        for axis in range(3):
            is_set = (axes[axis] >> bit) & 1 == 1
            differing = torch.where(is_set, 0, (axes[0] ^ axes[axis]) & lower)
            axes[axis] = axes[axis] ^ differing
            axes[0] = torch.where(is_set, axes[0] ^ lower, axes[0] ^ differing)
    return _from_gray(z_order_codes(torch.stack(axes, dim=1), depth), 3 * depth)


def _from_gray(code: Tensor, bits: int) -> Tensor:
    """Gray code to binary: each bit becomes the parity of itself and all above it."""
    shift = 1
    while shift < bits:
        code = code ^ (code >> shift)
        shift *= 2
    return code
