"""A humanoid with standard names, fitted to a biped's curves and horizontal sections."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from services.inference.geometric.body_plan import BodyPlan, Limb, limb_length, limb_path
from services.inference.geometric.chains import side_name
from services.inference.geometric.curve_tree import CurveTree
from services.inference.geometric.draft import SHORTEST, Draft, chain_corners, limb_corners
from services.inference.geometric.fingers import find_fingers
from services.inference.geometric.humanoid_limbs import (
    Arm,
    BareLeg,
    Leg,
    bare_leg,
    fit_arm,
    fit_leg,
    touching_leg,
    with_palm,
)
from services.inference.geometric.sections import section_at
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Indices, Points

# A side limb shorter than this is no arm, body units.
_SHORTEST_ARM = 0.25
# An unpaired curve that goes backwards from one of these is a tail, and hangs from the hips.
_TAIL_STARTS = ("hips", "spine", "left_upper_leg", "right_upper_leg")
# As VRM names them.
_FINGERS = {
    "thumb": ("metacarpal", "proximal", "distal"),
    **dict.fromkeys(("index", "middle", "ring", "little"), ("proximal", "intermediate", "distal")),
}
_MIRROR = np.array([-1.0, 1.0, 1.0])
# Shoulder joints are at least this share of the trunk's least half width from its middle.
_SHOULDER_OF_WAIST = 0.95
# How far the shoulder of an arm that hangs is raised at most, in the arm's radii.
_MOST_RISE = 2.0
# Curves that stick out of the fitted bones by less than this get no joints, body units; on chest
# and arms, where clothes stand out, more is needed.
_SHORTEST_EXTRA = 0.14
_SHORTEST_ON_CLOTHES = 0.25
_CLOTHED = ("chest", "shoulder", "upper_arm", "lower_arm")


@dataclass(frozen=True)
class Trunk:
    """Joints (3,) on the mirror plane, from the pelvis to the top of the head."""

    hips: Points
    spine: Points
    chest: Points
    neck: Points
    head: Points
    top: Points


def humanoid_skeleton(
    tree: CurveTree, plan: BodyPlan, folded: Solid, surface: tuple[Points, Indices]
) -> Draft | None:
    """Standard humanoid joints, and chains for what else the body has, such as a tail.

    folded is the body united with its mirror image; surface its vertices and faces. None if the
    body, though it stands on two legs, is not built like a person: a level trunk.
    """
    path = _outwards(tree, plan.legs(1)[0])
    bare = bare_leg(folded, path) or touching_leg(folded, path)
    arm = _fit_arm(tree, plan, folded, bare)
    top = float(folded.centres[:, 1].max())
    shoulders = bare.crotch + 0.62 * (top - bare.crotch) if arm is None else arm.shoulder[1]
    leg = fit_leg(bare, folded.cell, plan.facing, float(shoulders))
    trunk = _fit_trunk(folded, leg, float(shoulders), 0.0 if arm is None else arm.radius)
    if trunk is None:
        return None
    fingers = [] if arm is None else _fingers(arm, *surface)
    if arm is not None and fingers:
        arm = with_palm(arm, fingers)
    draft = _assemble(trunk, leg, arm, fingers)
    _add_extras(draft, tree, plan, leg.facing)
    return draft


def _fit_arm(tree: CurveTree, plan: BodyPlan, folded: Solid, bare: BareLeg) -> Arm | None:
    """The arm on the side x > 0, or None. It starts outside what the trunk is at its waist."""
    limb = _arm_limb(tree, plan, bare.crotch)
    if limb is None:
        return None
    path, radii = _outwards(tree, limb), tree.radii[limb_path(tree, limb)]
    rough = fit_arm(path, radii, 0.5 * bare.inset)
    depth = float(bare.sections[-1].centre[2])
    low, high = bare.crotch, float(rough.shoulder[1]) - 1.5 * rough.radius
    sections = [
        section_at(folded, np.array([0.0, height, depth]))
        for height in np.arange(low + 0.4 * (high - low), high, folded.cell)
    ]
    widths = [s.width for s in sections if s is not None and s.on_plane]
    if not widths:
        return rough
    arm = fit_arm(path, radii, max(0.5 * bare.inset, _SHOULDER_OF_WAIST * min(widths) / 2))
    return replace(arm, shoulder=_under_the_top(arm, folded))


def _under_the_top(arm: Arm, folded: Solid) -> Points:
    """The shoulder raised to an arm's radius below the top of the body there.

    The curve of an arm that hangs enters the trunk at the armpit: the steeper, the lower.
    """
    along = arm.elbow - arm.shoulder
    most = _MOST_RISE * arm.radius * max(0.0, float(-along[1] / np.linalg.norm(along)))
    i, j, k = (int(v) for v in folded.cells_of(arm.shoulder[None])[0])
    empty = np.flatnonzero(~folded.filled[i, j:, k])
    top = arm.shoulder[1] + folded.cell * (float(empty[0]) - 0.5 if len(empty) else 0.0)
    rise = float(np.clip(top - arm.radius - arm.shoulder[1], 0.0, most))
    return np.asarray(arm.shoulder + np.array([0.0, rise, 0.0]))


def _fingers(arm: Arm, vertices: Points, faces: Indices) -> list[Points]:
    """The fingers on the side x > 0, of either hand, for one may hold something."""
    return find_fingers(vertices, faces, arm.wrist, arm.tip) or find_fingers(
        vertices * _MIRROR, faces, arm.wrist, arm.tip
    )


def _outwards(tree: CurveTree, limb: Limb) -> Points:
    """A limb's curve from its tip to its fork, on the side x >= 0."""
    points = tree.points[limb_path(tree, limb)]
    points[:, 0] = np.abs(points[:, 0])
    return points


def _arm_limb(tree: CurveTree, plan: BodyPlan, crotch: float) -> Limb | None:
    """The longest pair of limbs that does not stand and grows from above the crotch."""
    arms = [
        e
        for e in plan.limbs
        if e.side == 1 and e.paired and not e.grounded and tree.points[e.fork, 1] > crotch
    ]
    lengths = {e: limb_length(tree, e) for e in arms}
    long_ones = [e for e in arms if lengths[e] > _SHORTEST_ARM]
    return max(long_ones, key=lambda e: lengths[e], default=None)


def _fit_trunk(solid: Solid, leg: Leg, shoulders: float, thickness: float) -> Trunk | None:
    centres = solid.centres
    central = centres[np.abs(centres[:, 0]) < solid.cell / 2]
    top_height = float(central[:, 1].max())
    leg_length = float(leg.hip[1] - leg.ankle[1])
    hips_height = float(leg.hip[1]) + 0.08 * leg_length
    if not hips_height + 6 * solid.cell < shoulders < top_height - 4 * solid.cell:
        return None
    levels = _central_levels(solid, float(leg.hip[2]), hips_height, top_height)
    if float(np.ptp(levels[:, 1])) > 0.7 * (top_height - hips_height):
        return None
    narrow = _neck_height(levels, shoulders + thickness, top_height)

    def on_axis(height: float) -> Points:
        return np.array([0.0, height, float(np.interp(height, levels[:, 0], levels[:, 1]))])

    above_hips = shoulders - hips_height
    return Trunk(
        hips=on_axis(hips_height),
        spine=on_axis(hips_height + 0.25 * above_hips),
        chest=on_axis(hips_height + 0.55 * above_hips),
        neck=on_axis(shoulders + 0.5 * (narrow - shoulders)),
        head=on_axis(narrow + 0.1 * (top_height - narrow)),
        top=np.array([0.0, top_height, float(levels[levels[:, 0] >= narrow, 1].mean())]),
    )


def _central_levels(solid: Solid, depth: float, low: float, high: float) -> Points:
    """For each height from low to high, tracked upwards: (height, z of the centre, area)."""
    levels = []
    for height in np.arange(low, high + solid.cell / 2, solid.cell):
        section = section_at(solid, np.array([0.0, height, depth]))
        if section is None or not section.on_plane:
            continue
        depth = float(section.centre[2])
        levels.append([float(section.centre[1]), depth, section.width * section.depth])
    return np.array(levels)


def _neck_height(levels: Points, low: float, top: float) -> float:
    """The height of the smallest section in the lower part of what is above the shoulders."""
    neck = levels[(levels[:, 0] >= low) & (levels[:, 0] <= low + 0.45 * (top - low))]
    if not len(neck):
        return low + 0.2 * (top - low)
    return float(neck[neck[:, 2].argmin(), 0])


def _assemble(trunk: Trunk, leg: Leg, arm: Arm | None, fingers: list[Points]) -> Draft:
    draft = Draft()
    hips = draft.add("hips", -1, trunk.hips, trunk.spine)
    spine = draft.add("spine", hips, trunk.spine, trunk.chest)
    chest = draft.add("chest", spine, trunk.chest, trunk.neck)
    neck = draft.add("neck", chest, trunk.neck, trunk.head)
    draft.add("head", neck, trunk.head, trunk.top)
    for side in (leg.facing, -leg.facing):
        name = side_name(side, leg.facing)
        mirror = np.ones(3) if side > 0 else _MIRROR
        if arm is not None:
            hand = _add_arm(draft, chest, trunk, arm, name, mirror)
            _add_fingers(draft, hand, fingers, name, mirror)
    for side in (leg.facing, -leg.facing):
        name = side_name(side, leg.facing)
        _add_leg(draft, hips, leg, name, np.ones(3) if side > 0 else _MIRROR)
    return draft


def _add_arm(draft: Draft, chest: int, trunk: Trunk, arm: Arm, side: str, mirror: Points) -> int:
    """The joint of the hand."""
    inner = np.array([0.0, arm.shoulder[1], trunk.neck[2]])
    collar = inner + 0.3 * (arm.shoulder - inner)
    corners = [p * mirror for p in (collar, arm.shoulder, arm.elbow, arm.wrist, arm.tip)]
    parent = chest
    for number, bone in enumerate(("shoulder", "upper_arm", "lower_arm", "hand")):
        parent = draft.add(f"{side}_{bone}", parent, corners[number], corners[number + 1])
    return parent


def _add_fingers(draft: Draft, hand: int, fingers: list[Points], side: str, mirror: Points) -> None:
    for finger, (name, bones) in zip(fingers, _FINGERS.items(), strict=False):
        length = float(np.linalg.norm(finger[-1] - finger[0]))
        parent, corners = hand, finger[limb_corners(finger / length, len(bones))] * mirror
        for bone, (head, tail) in zip(bones, pairwise(corners), strict=False):
            parent = draft.add(f"{side}_{name}_{bone}", parent, head, tail)


def _add_leg(draft: Draft, hips: int, leg: Leg, side: str, mirror: Points) -> None:
    corners = [leg.hip, leg.knee, leg.ankle]
    bones = ["upper_leg", "lower_leg", "foot"]
    if leg.toes is not None:
        corners.append(leg.toes)
        bones.append("toes")
    corners.append(leg.toe_tip)
    parent = hips
    for number, bone in enumerate(bones):
        parent = draft.add(
            f"{side}_{bone}", parent, corners[number] * mirror, corners[number + 1] * mirror
        )


def _add_extras(draft: Draft, tree: CurveTree, plan: BodyPlan, facing: int) -> None:
    """Chains for the curves that no fitted bone explains, the longest first."""
    limb_of = {tip: limb for limb in plan.limbs for tip in limb.tips}
    paths = {tip: tree.path_up(tip) for tip in tree.tips}
    counts: dict[str, int] = {}
    for tip in sorted(paths, key=lambda t: (-tree.length(paths[t]), t)):
        outer = []
        for point in paths[tip]:
            joint, distance = draft.nearest_bone(tree.points[point])
            if distance < max(1.2 * float(tree.radii[point]), 2 * SHORTEST):
                break
            outer.append(point)
        if len(outer) < 2 or tree.length(outer) < _SHORTEST_EXTRA:
            continue
        points = tree.points[outer[::-1]]
        joint, _ = draft.nearest_bone(points[0])
        clothed = draft.names[joint].endswith(_CLOTHED)
        if clothed and tree.length(outer) < _SHORTEST_ON_CLOTHES:
            continue
        limb = limb_of[tip]
        behind = facing * (points[-1, 2] - draft.heads[0][2]) < 0
        tail = behind and not limb.paired and draft.names[joint] in _TAIL_STARTS
        joint = 0 if tail else joint
        kind = "ear" if draft.names[joint] == "head" and limb.paired else "branch"
        name = "tail" if tail else f"{kind}_{side_name(limb.side, facing)}"
        counts[name] = counts.get(name, 0) + 1
        name = name if counts[name] == 1 else f"{name}_{chr(ord('a') + counts[name] - 1)}"
        draft.add_chain(name, joint, points[chain_corners(points, [])])
