"""Triangles to pixels with a depth buffer, in NumPy."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int32]

_FRAGMENTS_AT_ONCE = 3_000_000


@dataclass(frozen=True)
class Fragments:
    """What is seen in each pixel of a picture of H x W pixels.

    faces: (H, W) int32, the nearest face, -1 where there is none.
    barycentric: (H, W, 3) float32, the pixel centre's place in that face.
    depth: (H, W) float32, inf where there is no face.
    """

    faces: Int
    barycentric: Float
    depth: Float


def rasterise(points: Float, faces: Int, width: int, height: int) -> Fragments:
    """The nearest face behind each pixel centre, whatever its winding.

    points: (N, 3) x and y in pixels (y down, the first pixel's centre at 0.5, 0.5), and depth
    (smaller is nearer); faces: (F, 3) indices into points.
    """
    found = np.full(width * height, -1, np.int32)
    barycentric = np.zeros((width * height, 3), np.float32)
    depth = np.full(width * height, np.inf, np.float32)

    corners = points[faces]
    limits = np.array([width, height])
    first = np.ceil(corners[:, :, :2].min(1) - 0.5).clip(0, limits).astype(np.int64)
    last = np.floor(corners[:, :, :2].max(1) - 0.5).clip(-1, limits - 1).astype(np.int64)
    spans = (last - first + 1).clip(0)
    counts = spans[:, 0] * spans[:, 1]
    drawn = np.flatnonzero(counts)
    batches = np.cumsum(counts[drawn]) // _FRAGMENTS_AT_ONCE
    for batch in np.split(drawn, np.flatnonzero(np.diff(batches)) + 1):
        face = np.repeat(batch, counts[batch])
        nth = np.arange(len(face)) - np.repeat(
            np.cumsum(counts[batch]) - counts[batch], counts[batch]
        )
        x = first[face, 0] + nth % spans[face, 0]
        y = first[face, 1] + nth // spans[face, 0]
        inside, place, z = _places(corners[face], x + 0.5, y + 0.5)
        pixel = y[inside] * width + x[inside]
        nearer = np.flatnonzero(z < depth[pixel])
        # The last of several writes to a pixel stays, so the nearest is written last.
        nearer = nearer[np.argsort(-z[nearer], kind="stable")]
        found[pixel[nearer]] = face[inside][nearer]
        barycentric[pixel[nearer]] = place[nearer]
        depth[pixel[nearer]] = z[nearer]
    return Fragments(
        found.reshape(height, width),
        barycentric.reshape(height, width, 3),
        depth.reshape(height, width),
    )


def _places(
    corners: Float, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.bool_], Float, Float]:
    """Which of n pixel centres lie in their triangle; of those the barycentric place and depth."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    doubled_area: Float = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (
        c[:, 0] - a[:, 0]
    )
    doubled_area[doubled_area == 0] = np.nan
    v = ((x - a[:, 0]) * (c[:, 1] - a[:, 1]) - (y - a[:, 1]) * (c[:, 0] - a[:, 0])) / doubled_area
    w = ((b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (b[:, 1] - a[:, 1]) * (x - a[:, 0])) / doubled_area
    # NaN compares false. The slack closes the cracks that rounding leaves at edges.
    inside = (v >= -1e-5) & (w >= -1e-5) & (v + w <= 1 + 1e-5)
    place = np.stack([1 - v[inside] - w[inside], v[inside], w[inside]], 1).astype(np.float32)
    return inside, place, (place * corners[inside][:, :, 2]).sum(1)
