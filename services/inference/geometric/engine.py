"""The geometric engine: a usable rig from shape alone, without weights to download."""

from collections.abc import Callable

import numpy as np

from services.inference.checks import check_tree
from services.inference.geometric.animal import animal_skeleton, root_of
from services.inference.geometric.body_plan import Plan, body_plan
from services.inference.geometric.bone_segments import bone_segments
from services.inference.geometric.bundles import without_bundles
from services.inference.geometric.chains import prop_skeleton
from services.inference.geometric.curve_tree import CurveTree, prune, reroot, smooth
from services.inference.geometric.draft import Draft
from services.inference.geometric.humanoid import humanoid_skeleton
from services.inference.geometric.influences import strongest_influences
from services.inference.geometric.quadruped import straightened
from services.inference.geometric.skinning import skin_surface, weights_at
from services.inference.geometric.solid import Solid, bounded_voxels, convexity, is_sheet
from services.inference.geometric.surface import (
    BodyFrame,
    Indices,
    Points,
    UnfitInputError,
    centred_frame,
    check_mesh,
    decimate,
    weld,
)
from services.inference.geometric.symmetry import SYMMETRIC, symmetric_frame
from services.inference.geometric.teasar import curve_skeleton, fold, unfold
from services.inference.geometric.things import jointed_skeleton, stiff_skeleton, thing_skeleton
from services.inference.geometry import Mesh, Skeleton, SkinWeights

Progress = Callable[[float, str], None]

# What fills this share of its convex hull has no limbs.
_CONVEX = 0.8
_MOST_TIPS = 18
_WELD = 1e-5
_SHAPE_FACES = 60_000
_SKIN_FACES = 40_000
MAX_INFLUENCES = 4


def predict_skeleton(mesh: Mesh, progress: Progress) -> Skeleton:
    """A joint tree for a mesh: a humanoid with standard names, or named chains.

    progress is called with the share done, 0..1, and what is being done.
    Raises UnfitInputError, in words a user understands, for a mesh that cannot be rigged.
    """
    progress(0.02, "Checking the mesh")
    check_mesh(mesh)
    frame = centred_frame(mesh)
    progress(0.06, "Welding the surface")
    vertices, faces, _ = _welded(mesh, frame)
    progress(0.12, "Reducing the surface")
    vertices, faces = decimate(vertices, faces, _SHAPE_FACES)
    progress(0.2, "Looking for symmetry")
    frame, overlap, vertices = _mirrored(frame, vertices, faces)
    progress(0.35, "Filling the solid")
    solid = bounded_voxels(vertices, faces)
    progress(0.5, "Looking for limbs")
    if convexity(solid) > _CONVEX:
        draft = stiff_skeleton((vertices, faces))
    else:
        tree = None
        if overlap >= SYMMETRIC:
            tree = _mirrored_curves(solid, _tracing(progress, 0.55))
        symmetric = tree is not None
        if tree is None:
            tree = curve_skeleton(solid, False, _tracing(progress, 0.7))
        progress(0.85, "Placing the joints")
        draft = _joints(
            _tidied(tree, solid), solid, symmetric, (vertices, faces), _tracing(progress, 0.85)
        )
    progress(1.0, "Skeleton ready")
    return draft.skeleton(frame)


def predict_weights(mesh: Mesh, skeleton: Skeleton, progress: Progress) -> SkinWeights:
    """At most four influences for every vertex of a mesh, for any skeleton.

    progress is called with the share done, 0..1, and what is being done.
    Raises UnfitInputError, in words a user understands, for a mesh that cannot be rigged and for
    joints that are not one tree.
    """
    progress(0.02, "Checking the mesh and the skeleton")
    check_mesh(mesh)
    _check_tree(skeleton)
    frame = centred_frame(mesh)
    progress(0.06, "Welding the surface")
    vertices, faces, welded = _welded(mesh, frame)
    progress(0.12, "Reducing the surface")
    small_vertices, small_faces = decimate(vertices, faces, _SKIN_FACES)
    progress(0.18, "Filling the solid")
    solid = bounded_voxels(small_vertices, small_faces)
    bones = bone_segments(skeleton, frame, solid)
    surface = skin_surface(
        small_vertices,
        small_faces,
        solid,
        bones,
        lambda share, message: progress(0.2 + 0.6 * share, message),
    )
    chunks = []
    for share, dense in weights_at(vertices, surface):
        progress(0.8 + 0.19 * share, "Giving weights to every vertex")
        chunks.append(strongest_influences(dense, MAX_INFLUENCES))
    joints = np.concatenate([chunk.joints for chunk in chunks])
    weights = np.concatenate([chunk.weights for chunk in chunks])
    progress(1.0, "Skin weights ready")
    return SkinWeights(joints=joints[welded], weights=weights[welded])


def _check_tree(skeleton: Skeleton) -> None:
    try:
        check_tree(skeleton)
    except ValueError as error:
        raise UnfitInputError(str(error)) from error


def _welded(mesh: Mesh, frame: BodyFrame) -> tuple[Points, Indices, Indices]:
    # Only vertices without faces lie outside the frame's cube; the grid must not grow for them.
    vertices = np.clip(frame.to_body(mesh.vertices), -1.0, 1.0)
    vertices, faces, welded = weld(vertices, mesh.faces.astype(np.int64), _WELD)
    if not len(faces):
        raise UnfitInputError("All faces of the model are degenerate.")
    return vertices, faces, welded


def _mirrored(
    frame: BodyFrame, vertices: Points, faces: Indices
) -> tuple[BodyFrame, float, Points]:
    turned, overlap = symmetric_frame(frame, vertices, faces)
    shift = (turned.centre - frame.centre) * frame.scale
    return turned, overlap, (vertices - shift) @ turned.turn.T


def _tracing(progress: Progress, start: float) -> Callable[[float], None]:
    return lambda share: progress(start + 0.15 * share, "Tracing the medial curves")


def _mirrored_curves(solid: Solid, progress: Callable[[float], None]) -> CurveTree | None:
    """The same curves on both sides, or None for two bodies that do not meet in the middle."""
    half = curve_skeleton(fold(solid), True, progress)
    return unfold(half, solid) if half.points[0, 0] == 0.0 else None


def _tidied(tree: CurveTree, solid: Solid) -> CurveTree:
    shortest = 0.08
    pruned = without_bundles(prune(tree, 1.75, shortest), solid)
    while len(pruned.tips) > _MOST_TIPS:
        shortest *= 1.4
        pruned = prune(pruned, 1.75, shortest)
    return smooth(pruned, 4)


def _joints(
    tree: CurveTree,
    solid: Solid,
    symmetric: bool,
    surface: tuple[Points, Indices],
    progress: Callable[[float], None],
) -> Draft:
    if is_sheet(solid, tree.points):
        return prop_skeleton(solid)
    plan = body_plan(tree, solid, symmetric)
    thing = thing_skeleton(tree, plan, solid, surface)
    if thing is not None:
        return thing
    if symmetric and plan.legs(1) and plan.plan in (Plan.BIPED, Plan.BIRD):
        humanoid = humanoid_skeleton(tree, plan, fold(solid), surface)
        if humanoid is not None:
            return humanoid
    if symmetric and any(limb.grounded and limb.side and not limb.paired for limb in plan.limbs):
        # The sides stand differently, however alike they are elsewhere.
        tree, symmetric = _tidied(curve_skeleton(solid, False, progress), solid), False
        plan = body_plan(tree, solid, symmetric)
    if plan.plan is Plan.QUADRUPED:
        tree = straightened(tree, plan, fold(solid) if symmetric else solid)
        plan = body_plan(tree, solid, symmetric)
    if plan.plan is Plan.GENERIC:
        return jointed_skeleton(tree, plan, solid, surface)
    tree = reroot(tree, root_of(tree, plan))
    plan = body_plan(tree, solid, symmetric)
    return animal_skeleton(tree, plan, solid, surface)
