"""The geometric engine: a usable rig from shape alone, without weights to download."""

from collections.abc import Callable

import numpy as np

from services.inference.checks import check_tree
from services.inference.geometric.body_plan import Plan, body_plan
from services.inference.geometric.bone_segments import bone_segments
from services.inference.geometric.chains import chain_skeleton, hind_fork, prop_skeleton
from services.inference.geometric.curve_tree import CurveTree, prune, reroot, smooth
from services.inference.geometric.draft import Draft
from services.inference.geometric.humanoid import humanoid_skeleton
from services.inference.geometric.influences import strongest_influences
from services.inference.geometric.skinning import skin_surface, weights_at
from services.inference.geometric.solid import Solid, bounded_voxels, convexity
from services.inference.geometric.surface import (
    BodyFrame,
    Indices,
    Points,
    centred_frame,
    check_mesh,
    decimate,
    weld,
)
from services.inference.geometric.symmetry import SYMMETRIC, symmetric_frame
from services.inference.geometric.teasar import curve_skeleton, fold, unfold
from services.inference.geometry import Mesh, Skeleton, SkinWeights

NAME = "geometric"
VERSION = "1.0.0"

Progress = Callable[[float, str], None]

# What fills this share of its convex hull has no limbs.
_CONVEX = 0.8
_MOST_TIPS = 18
_WELD = 1e-5
_SKIN_FACES = 40_000
MAX_INFLUENCES = 4


def predict_skeleton(mesh: Mesh, progress: Progress) -> Skeleton:
    """A joint tree for a mesh: a humanoid with standard names, or named chains.

    progress is called with the share done, 0..1, and what is being done.
    Raises ValueError, in words a user understands, for a mesh that cannot be rigged.
    """
    progress(0.02, "Checking the mesh")
    check_mesh(mesh)
    frame = centred_frame(mesh)
    progress(0.06, "Welding the surface")
    vertices, faces = _welded(mesh, frame)
    progress(0.15, "Looking for symmetry")
    frame, overlap, vertices = _mirrored(frame, vertices, faces)
    symmetric = overlap >= SYMMETRIC
    progress(0.35, "Filling the solid")
    solid = bounded_voxels(vertices, faces)
    progress(0.55, "Tracing the medial curves")
    if convexity(solid) > _CONVEX:
        draft = prop_skeleton(solid)
    else:
        tree = _curves(solid, symmetric)
        progress(0.85, "Placing the joints")
        draft = _joints(tree, solid, symmetric)
    progress(1.0, "Skeleton ready")
    return draft.skeleton(frame)


def predict_weights(mesh: Mesh, skeleton: Skeleton, progress: Progress) -> SkinWeights:
    """At most four influences for every vertex of a mesh, for any skeleton.

    progress is called with the share done, 0..1, and what is being done.
    Raises ValueError, in words a user understands, for a mesh or skeleton that has no rig.
    """
    progress(0.02, "Checking the mesh and the skeleton")
    check_mesh(mesh)
    check_tree(skeleton)
    frame = centred_frame(mesh)
    progress(0.06, "Welding the surface")
    vertices, faces = _welded(mesh, frame)
    progress(0.12, "Filling the solid")
    solid = bounded_voxels(vertices, faces)
    progress(0.18, "Reducing the surface")
    small_vertices, small_faces = decimate(vertices, faces, _SKIN_FACES)
    bones = bone_segments(skeleton, frame, solid)
    surface = skin_surface(
        small_vertices,
        small_faces,
        solid,
        bones,
        lambda share, message: progress(0.2 + 0.6 * share, message),
    )
    points = frame.to_body(mesh.vertices)
    joints = np.empty((len(points), MAX_INFLUENCES), dtype=np.int32)
    weights = np.empty((len(points), MAX_INFLUENCES), dtype=np.float32)
    done = 0
    for dense in weights_at(points, surface):
        progress(0.8 + 0.19 * done / len(points), "Giving weights to every vertex")
        chunk = strongest_influences(dense, MAX_INFLUENCES)
        joints[done : done + len(dense)] = chunk.joints
        weights[done : done + len(dense)] = chunk.weights
        done += len(dense)
    progress(1.0, "Skin weights ready")
    return SkinWeights(joints=joints, weights=weights)


def _welded(mesh: Mesh, frame: BodyFrame) -> tuple[Points, Indices]:
    vertices, faces, _ = weld(frame.to_body(mesh.vertices), mesh.faces.astype(np.int64), _WELD)
    if not len(faces):
        raise ValueError("All faces of the model are degenerate.")
    return vertices, faces


def _mirrored(
    frame: BodyFrame, vertices: Points, faces: Indices
) -> tuple[BodyFrame, float, Points]:
    turned, overlap = symmetric_frame(frame, vertices, faces)
    shift = (turned.centre - frame.centre) * frame.scale
    return turned, overlap, (vertices - shift) @ turned.turn.T


def _curves(solid: Solid, symmetric: bool) -> CurveTree:
    if symmetric:
        tree = unfold(curve_skeleton(fold(solid), folded=True), solid)
    else:
        tree = curve_skeleton(solid, folded=False)
    shortest = 0.08
    pruned = prune(tree, 1.75, shortest)
    while len(pruned.tips) > _MOST_TIPS:
        shortest *= 1.4
        pruned = prune(pruned, 1.75, shortest)
    return smooth(pruned, 4)


def _joints(tree: CurveTree, solid: Solid, symmetric: bool) -> Draft:
    thin = float(tree.radii.max()) < 1.2 * solid.cell
    if len(tree.tips) < 2 or (thin and len(tree.tips) > 8):
        return prop_skeleton(solid)
    plan = body_plan(tree, solid, symmetric)
    if plan.plan is Plan.BIPED:
        humanoid = humanoid_skeleton(tree, plan, fold(solid))
        if humanoid is not None:
            return humanoid
    if plan.plan in (Plan.BIPED, Plan.QUADRUPED):
        tree = reroot(tree, hind_fork(tree, plan))
        plan = body_plan(tree, solid, symmetric)
    return chain_skeleton(tree, plan)
