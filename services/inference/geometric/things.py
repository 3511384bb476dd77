"""Skeletons of things: one bone for each straight piece, and one joint where nothing can turn.

A stiff thing is built of straight pieces, parallel or square to each other, and looks the same
from the front and from behind; a table is a plate on straight legs. What bends or forks at other
angles is jointed there.
"""

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np

from services.inference.geometric.body_plan import BodyPlan, Limb, Plan
from services.inference.geometric.chains import chain_skeleton
from services.inference.geometric.curve_tree import CurveTree, reroot, travelled
from services.inference.geometric.draft import (
    LONGEST,
    SHORTEST,
    Draft,
    divided_evenly,
    segment_distances,
)
from services.inference.geometric.solid import Solid
from services.inference.geometric.surface import Indices, Points
from services.inference.geometric.symmetry import mirror_overlap

# A piece is straight if it leaves its chord by less than this, body units, or share of its length.
_STRAIGHT = 0.04
_STRAIGHT_SHARE = 0.06
# A sharp bend turns by more than _SHARP between the stretches of this length on its two sides.
_SHARP = np.radians(38.0)
_STRETCH = 0.12
# Pieces are square within this angle.
_SQUARE = np.sin(np.radians(20.0))
# The share of the voxels that have a mirror image, in two planes at least.
_ALIKE = 0.75
# Curves end where a ball inside the body, so much larger, holds the rest of them.
_BALL = 1.3
# The legs of a table lean by less than this, and stand apart by more than so many times what they
# carry is thick.
_LEANING = np.cos(np.radians(25.0))
_APART = 4.0
# The longest bone of a thing with forks, such as a tree.
_LONGEST_PIECE = 2 * LONGEST


def stiff_skeleton(solid: Solid) -> Draft:
    """One joint in the middle."""
    centres = solid.centres
    middle = centres.mean(axis=0)
    draft = Draft()
    rise = max(SHORTEST, float(centres[:, 1].max() - middle[1]))
    draft.add("root", -1, middle, middle + np.array([0.0, rise, 0.0]))
    return draft


def thing_skeleton(tree: CurveTree, plan: BodyPlan, solid: Solid) -> Draft | None:
    """The skeleton of what is no living body; None for what may be one, or bends gently."""
    if _is_table(tree, plan):
        return stiff_skeleton(solid)
    legs_alone = all(limb.grounded for limb in plan.limbs)
    if plan.plan is not Plan.GENERIC and not legs_alone:
        return None
    feet = [limb.tips[0] for limb in plan.limbs if limb.grounded]
    if plan.plan is Plan.GENERIC and _is_stiff(tree, solid):
        return stiff_skeleton(solid)
    ends = [tip for tip in tree.tips] + ([0] if len(tree.children[0]) == 1 else [])
    if len(ends) <= 2 and plan.plan is Plan.GENERIC:
        foot = min(ends, key=lambda e: tree.points[e, 1])
        tree = reroot(tree, foot)
        if _corners(tree.points) is None:
            return None
    elif len(feet) == 1 and plan.plan is Plan.GENERIC:
        tree = reroot(tree, feet[0])
    elif not legs_alone:
        return None
    return chain_skeleton(tree, replace(plan, limbs=()), _pieces)


def _pieces(points: Points, forks: list[int]) -> Indices:
    return np.zeros(0)
