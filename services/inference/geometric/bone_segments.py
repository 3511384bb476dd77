"""What heat flows from: the pieces of a skeleton's bones that run through the solid."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from services.inference.geometric.solid import Bits, Solid
from services.inference.geometric.surface import BodyFrame, Indices, Points
from services.inference.geometry import Skeleton

_SAME_PLACE = 1e-4
# Joints farther away than this are as good as there; body units.
_FAR = 10.0


@dataclass(frozen=True)
class BoneSegments:
    """S straight pieces of bone in the body frame.

    joints: (S,) the joint that each piece belongs to. heads, tails: (S, 3) its ends.
    count: how many joints the skeleton has, those without a piece included.
    """

    joints: Indices
    heads: Points
    tails: Points
    count: int


def bone_segments(skeleton: Skeleton, frame: BodyFrame, solid: Solid) -> BoneSegments:
    """The bones of a skeleton, cut to what lies in the solid or within a cell of it.

    A joint owns its bone, and the way to each child that does not start at the bone's tail.
    Joints with nothing inside own no piece, nor do the first ones if they start outside, such as
    a root on the floor: they carry the body as a whole. Where that leaves nothing, every joint
    keeps all it has.
    """
    heads = np.clip(frame.to_body(skeleton.heads), -_FAR, _FAR)
    tails = np.clip(frame.to_body(skeleton.tails), -_FAR, _FAR)
    whole = [(joint, heads[joint], tails[joint]) for joint in range(len(heads))]
    for joint, parent in enumerate(skeleton.parents):
        if parent >= 0 and np.linalg.norm(heads[joint] - tails[parent]) > _SAME_PLACE:
            whole.append((int(parent), heads[parent], heads[joint]))
    thick = Solid(
        np.asarray(ndimage.binary_dilation(solid.filled, np.ones((3, 3, 3)))),
        solid.origin,
        solid.cell,
    )
    carriers = _carriers(skeleton.parents, solid.holds(heads))
    pieces = [
        (joint, *ends)
        for joint, head, tail in whole
        if joint not in carriers
        for ends in _inside(head, tail, thick)
    ]
    chosen = pieces or whole
    return BoneSegments(
        joints=np.array([joint for joint, _, _ in chosen]),
        heads=np.array([head for _, head, _ in chosen]),
        tails=np.array([tail for _, _, tail in chosen]),
        count=len(heads),
    )


def _carriers(parents: npt.NDArray[np.int32], inside: Bits) -> set[int]:
    """The first joints that start outside, down to where the tree forks."""
    carriers: set[int] = set()
    children = np.array([0])
    while len(children) == 1 and not inside[children[0]]:
        carriers.add(int(children[0]))
        children = np.flatnonzero(parents == children[0])
    return carriers


def _inside(head: Points, tail: Points, solid: Solid) -> list[tuple[Points, Points]]:
    samples = max(2, int(np.ceil(2 * np.linalg.norm(tail - head) / solid.cell)) + 1)
    line = head + np.linspace(0.0, 1.0, samples)[:, None] * (tail - head)
    runs, count = ndimage.label(solid.holds(line))
    return [
        (line[places[0]], line[places[-1]])
        for places in (np.flatnonzero(runs == run) for run in range(1, count + 1))
    ]
