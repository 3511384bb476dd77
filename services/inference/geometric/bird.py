"""The wings of a bird."""

import numpy as np
from scipy import ndimage

from services.inference.geometric.curve_tree import travelled
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Points

# Where the bones of a wing are, from its leading to its trailing edge; feathers reach beyond them.
_CHORD = 0.2
_REACH = 0.92
_SMOOTH = 7


def wing_line(points: Points, facing: int, solid: Solid) -> Points:
    """The bones' line for the curve (n, 3) of a wing from the body to its tip.

    The medial curve runs through the middle of the feathers.
    """
    line = points.copy()
    for place, point in enumerate(points):
        i, j, k = (int(v) for v in solid.cells_of(point[None])[0])
        labels, _ = ndimage.label(solid.filled[i])
        if labels[j, k] == 0:
            continue
        heights, depths = np.nonzero(labels == labels[j, k])
        edges = depths.max(), depths.min()
        front, back = edges if facing > 0 else edges[::-1]
        depth = front + _CHORD * (back - front)
        height = heights[np.abs(depths - depth) <= 1.0].mean()
        line[place, 1:] = solid.origin[1:] + solid.cell * np.array([height, depth])
    line[:, 1:] = ndimage.uniform_filter1d(line[:, 1:], _SMOOTH, axis=0, mode="nearest")
    along = travelled(line)
    return np.asarray(line[along <= _REACH * along[-1]])
