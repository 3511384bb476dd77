"""Where the joints of a humanoid's legs and arms are, fitted on the side x > 0.

Segment ratios are those of Winter, Biomechanics and Motor Control of Human Movement (2009),
chapter 4, used where the shape shows no bend.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from services.inference.geometric.curve_tree import travelled
from services.inference.geometric.draft import segment_distances
from services.inference.geometric.sections import Section, section_at
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Points

_ELBOW = 0.42
_WRIST = 0.76
# A joint shows as a bend if it leaves the straight line by this share of the line's length.
_BEND = 0.06
# The height of the hip joints as a share of the shoulders', for hips under a skirt.
_HIP_OF_SHOULDER = 0.65
# What joins the legs is a skirt if it is wider than they are by this factor.
_SKIRT = 1.25
_SHORTEST_LEG = 0.12
# The crotch of legs that touch is at this share of the way up to where their curves fork.
_THIGH = 0.85
_EXPLODES = 1.5
# How long the palm is, in fingers, up to the wrist.
_PALM = 1.1


@dataclass(frozen=True)
class BareLeg:
    """What can be seen of a leg on the side x > 0, below trunk or skirt.

    sections: from the floor up. crotch: where it ends, a height. floor: a height.
    covered: whether a skirt or coat, wider than the legs, hides the rest of it.
    """

    sections: list[Section]
    crotch: float
    floor: float
    covered: bool

    @property
    def inset(self) -> float:
        """The distance from the mirror plane of the leg where it ends."""
        return float(self.sections[-1].centre[0])


@dataclass(frozen=True)
class Leg:
    """Joints (3,) in the body frame, and whether the foot points along z (1) or against it (-1).

    toes is None where the foot is too short to bend.
    """

    hip: Points
    knee: Points
    ankle: Points
    toes: Points | None
    toe_tip: Points
    facing: int


@dataclass(frozen=True)
class Arm:
    """Joints (3,) in the body frame, and the arm's usual thickness as a radius."""

    shoulder: Points
    elbow: Points
    wrist: Points
    tip: Points
    radius: float


def bare_leg(solid: Solid, path: Points) -> BareLeg | None:
    """Follow a leg's curve (n, 3), given from the toes to the trunk on the side x >= 0.

    solid is its own mirror image. The crotch is where the leg's horizontal sections start to
    reach the mirror plane. None if there is hardly a leg below that.
    """
    heights = solid.origin[1] + np.flatnonzero(solid.filled.any(axis=(0, 2))) * solid.cell
    floor, top = float(heights[0]), float(heights[-1])
    sections = _leg_sections(solid, path, floor)
    apart = [s for s in sections if not s.on_plane]
    if not apart:
        return None
    crotch = float(apart[-1].centre[1]) + solid.cell
    if crotch - floor < _SHORTEST_LEG * (top - floor):
        return None
    outside = 2.0 * float(apart[-1].centre[0]) + apart[-1].width
    joined = [s for s in sections if s.on_plane and s.centre[1] > crotch - solid.cell / 2]
    covered = bool(joined) and joined[0].width > _SKIRT * outside
    return BareLeg(_apart(sections, crotch), crotch, floor, covered)


def touching_leg(solid: Solid, path: Points) -> BareLeg:
    """Like bare_leg, for legs with curves of their own that touch nearly all the way up."""
    heights = solid.origin[1] + np.flatnonzero(solid.filled.any(axis=(0, 2))) * solid.cell
    floor = float(heights[0])
    crotch = floor + _THIGH * (float(path[-1, 1]) - floor)
    sections = _leg_sections(solid, path, floor)
    return BareLeg(_apart(sections, crotch), crotch, floor, covered=False)


def fit_leg(bare: BareLeg, cell: float, facing: int, shoulders: float) -> Leg:
    """The joints of a leg. facing is the guess for a foot that does not tell its direction."""
    length = bare.crotch - bare.floor
    hip_height = bare.crotch + 0.12 * length
    if bare.covered:
        hip_height = max(hip_height, bare.floor + _HIP_OF_SHOULDER * (shoulders - bare.floor))
    hip = np.array([0.9 * bare.inset, hip_height, bare.sections[-1].centre[2]])
    ankle_height = _ankle_height(bare.sections, bare.floor, length)
    ankle = _at_height(bare.sections, ankle_height)
    knee_height = (hip_height + ankle_height) / 2
    middle = [s.centre for s in bare.sections if abs(s.centre[1] - knee_height) < 0.2 * length]
    knee = _bend(np.array(middle), hip, ankle)
    if knee is None:
        knee = (hip + ankle) / 2
        if knee_height < bare.crotch:
            knee = _at_height(bare.sections, knee_height)

    foot = [s for s in bare.sections if s.centre[1] <= ankle_height] or bare.sections[:1]
    lead = max(s.front for s in foot) - ankle[2]
    trail = ankle[2] - min(s.back for s in foot)
    if abs(lead - trail) > 0.15 * (lead + trail):
        facing = 1 if lead > trail else -1
    reach = facing * (lead if facing > 0 else trail)
    if abs(reach) <= 4 * cell:
        return Leg(hip, knee, ankle, None, np.array([ankle[0], bare.floor, ankle[2]]), facing)
    inset, low = foot[0].centre[0], bare.floor + cell
    toes = np.array([inset, low, ankle[2] + 0.6 * reach])
    return Leg(hip, knee, ankle, toes, np.array([inset, low, ankle[2] + reach]), facing)


def fit_arm(path: Points, radii: Points, innermost: float) -> Arm:
    """An arm along a curve (n, 3) with radii (n,) from the finger tips to the trunk.

    The shoulder is where, going inwards, the radius explodes, but no further in than the
    distance innermost from the mirror plane.
    """
    along = travelled(path)
    share = along / along[-1]
    even = ndimage.uniform_filter1d(radii, 5, mode="nearest")
    usual = float(np.median(even[(share > 0.1) & (share < 0.45)]))
    ends = (share > 0.4) & ((even > _EXPLODES * usual) | (np.abs(path[:, 0]) < innermost))
    end = int(ends.argmax()) if ends.any() else len(path) - 1
    arm = path[: end + 1][::-1]
    from_shoulder = along[end] - along[: end + 1][::-1]
    place = from_shoulder / from_shoulder[-1]
    elbow = _bend(arm[(place > 0.3) & (place < 0.6)], arm[0], arm[-1])
    if elbow is None:
        elbow = arm[int(np.searchsorted(place, _ELBOW))]
    wrist = arm[int(np.searchsorted(place, _WRIST))]
    return Arm(arm[0], elbow, wrist, arm[-1], usual)


def with_palm(arm: Arm, fingers: list[Points]) -> Arm:
    """The arm with its wrist a palm's length behind the knuckles, and its hand up to these.

    fingers: curves (n, 3) from knuckle to tip, the thumb's first.
    """
    knuckles = np.mean([finger[0] for finger in fingers[1:]], axis=0)
    tips = np.mean([finger[-1] for finger in fingers[1:]], axis=0)
    back = arm.elbow - knuckles
    palm = min(_PALM * float(np.linalg.norm(tips - knuckles)), 0.5 * float(np.linalg.norm(back)))
    wrist = knuckles + palm * back / np.linalg.norm(back)
    return replace(arm, wrist=wrist, tip=knuckles)


def _leg_sections(solid: Solid, path: Points, floor: float) -> list[Section]:
    """The section that holds the leg at each height from the floor to the end of its curve."""
    sections = []
    for height in np.arange(floor, float(path[-1, 1]), solid.cell):
        nearest = path[int(np.abs(path[:, 1] - height).argmin())]
        section = section_at(solid, np.array([nearest[0], height, nearest[2]]))
        if section:
            sections.append(section)
    return sections


def _apart(sections: list[Section], crotch: float) -> list[Section]:
    """The sections below the crotch; of those of two legs that touch, the half of one."""
    halves = []
    for section in sections:
        if section.centre[1] > crotch - 1e-9:
            continue
        if section.on_plane:
            centre = section.centre * [0.0, 1.0, 1.0] + [section.width / 4, 0.0, 0.0]
            section = replace(section, centre=centre, width=section.width / 2, on_plane=False)
        halves.append(section)
    return halves


def _ankle_height(sections: list[Section], floor: float, length: float) -> float:
    """Above the foot, whose sections are much deeper than the shank's."""
    place = [(s.centre[1] - floor) / length for s in sections]
    shank = [s.depth for s, p in zip(sections, place, strict=True) if 0.12 < p < 0.4]
    share = 0.08
    if shank:
        foot = [
            p
            for s, p in zip(sections, place, strict=True)
            if p < 0.2 and s.depth > 1.35 * min(shank)
        ]
        if foot:
            share = float(np.clip(max(foot), 0.06, 0.16))
    return floor + share * length


def _at_height(sections: list[Section], height: float) -> Points:
    centres = np.array([s.centre for s in sections])
    return np.array([np.interp(height, centres[:, 1], centres[:, axis]) for axis in range(3)])


def _bend(points: Points, start: Points, end: Points) -> Points | None:
    """The point that leaves the line from start to end the most, if it leaves it clearly.

    The first and the last point are no bends: the curve goes on leaving the line beyond them, as
    it does towards a foot.
    """
    if not len(points):
        return None
    distances = segment_distances(points, start[None], end[None])[:, 0]
    worst = int(distances.argmax())
    if worst in (0, len(points) - 1):
        return None
    if distances[worst] < _BEND * float(np.linalg.norm(end - start)):
        return None
    return np.asarray(points[worst])
