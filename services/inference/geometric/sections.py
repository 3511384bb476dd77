"""Horizontal cross-sections of a solid."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Points


@dataclass(frozen=True)
class Section:
    """One connected piece of a horizontal cut, body units.

    centre: (3,) its centroid. width, depth: its size along x and z. front, back: its largest and
    smallest z. on_plane: whether it reaches the mirror plane x = 0.
    """

    centre: Points
    width: float
    depth: float
    front: float
    back: float
    on_plane: bool


def section_at(solid: Solid, point: Points) -> Section | None:
    """The piece of the cut at a point's height that holds the point or is nearest to it.

    None where the cut is empty.
    """
    i, j, k = (int(v) for v in solid.cells_of(point[None])[0])
    cut = solid.filled[:, j, :]
    if not cut.any():
        return None
    labels, _ = ndimage.label(cut, np.ones((3, 3)))
    label = labels[i, k]
    if label == 0:
        cells = np.argwhere(cut)
        nearest = cells[((cells - (i, k)) ** 2).sum(axis=1).argmin()]
        label = labels[tuple(nearest)]
    x, z = np.nonzero(labels == label)
    height = solid.origin[1] + j * solid.cell
    xs, zs = solid.origin[0] + x * solid.cell, solid.origin[2] + z * solid.cell
    return Section(
        centre=np.array([xs.mean(), height, zs.mean()]),
        width=float(np.ptp(xs)) + solid.cell,
        depth=float(np.ptp(zs)) + solid.cell,
        front=float(zs.max()),
        back=float(zs.min()),
        on_plane=bool((np.abs(xs) < solid.cell / 2).any()),
    )
