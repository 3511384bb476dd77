"""The steps around UniRig's networks, each from files to files.

The arrays of the files between them, points in the model's frame (see model_frame):

samples for the skeleton network: points, normals (65536, 3) float32; centre (3,) float32 and scale
() float32, the frame.
joints from it: joints (J, 3) float32, parents (J,), -1 for joint 0, names (J,) strings.
samples for the skin network: points, normals (32768, 3) float32; joints (J, 3) float32; parents
(J,) int32; voxel_skin (32768, J) float32, the prior; centre, scale.
weights from it: skin (32768, J) float32.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from services.inference.checks import check_skeleton, check_tree, check_weights
from services.inference.geometric.surface import UnfitInputError, check_mesh
from services.inference.geometry import (
    Float,
    Mesh,
    Skeleton,
    SkinWeights,
    load_mesh,
    load_skeleton,
    save_skeleton,
    save_weights,
)
from services.inference.unirig_geometry.mesh_cleaning import CleanMesh, clean_mesh, distinct_rows
from services.inference.unirig_geometry.model_frame import (
    ModelFrame,
    frame_of,
    to_y_up,
    to_z_up,
)
from services.inference.unirig_geometry.skeleton import FEWEST_JOINTS, skeleton_within
from services.inference.unirig_geometry.surface_samples import (
    SKELETON_POINTS,
    SKIN_POINTS,
    at_samples,
    sample_surface,
)
from services.inference.unirig_geometry.vertex_weights import (
    MAX_INFLUENCES,
    strongest_influences,
    vertex_weights,
)
from services.inference.unirig_geometry.voxel_prior import voxel_prior

Progress = Callable[[float, str], None]

# A joint farther from the mesh than this share of its longest side is taken for one at that
# distance: it must not shrink the mesh to a point.
_REACH = 0.5


def sample_skeleton(mesh_path: Path, out: Path, seed: int, progress: Progress) -> None:
    """What the skeleton network needs to know of a mesh. Raises UnfitInputError."""
    mesh = _clean(load_mesh(mesh_path), progress, 0.6)
    progress(0.7, "Sampling the surface")
    frame = frame_of(mesh.vertices)
    samples = sample_surface(_normalised(mesh, frame), SKELETON_POINTS, seed)
    progress(0.9, "Saving the samples")
    np.savez(
        out,
        points=samples.points,
        normals=samples.normals,
        centre=frame.centre,
        scale=frame.scale,
    )
    progress(1.0, "Samples ready")


def read_skeleton(
    mesh_path: Path, samples: Path, joints_path: Path, out: Path, progress: Progress
) -> None:
    """The skeleton that the network predicted, in the mesh's world. Raises UnfitInputError."""
    progress(0.1, "Reading the joints")
    mesh, frame = load_mesh(mesh_path), _load_frame(samples)
    with np.load(joints_path, allow_pickle=False) as arrays:
        joints, parents = arrays["joints"].astype(np.float32), arrays["parents"].astype(np.int32)
        names = tuple(str(name) for name in arrays["names"])
    progress(0.4, "Placing the joints")
    skeleton = skeleton_within(mesh, to_y_up(frame.world(joints)), parents, names)
    progress(0.7, "Checking the skeleton")
    check_skeleton(mesh, skeleton)
    save_skeleton(out, skeleton)
    progress(1.0, "Skeleton ready")


def sample_skin(
    mesh_path: Path, skeleton_path: Path, out: Path, seed: int, progress: Progress
) -> None:
    """What the skin network needs to know of a mesh and its skeleton. Raises UnfitInputError."""
    skeleton = load_skeleton(skeleton_path)
    _check_joints(skeleton)
    mesh = _clean(load_mesh(mesh_path), progress, 0.25)
    heads = _reachable(to_z_up(skeleton.heads), mesh.vertices)
    frame = frame_of(np.concatenate([mesh.vertices, heads]))
    mesh, joints = _normalised(mesh, frame), frame.normalised(heads)
    progress(0.3, "Filling the solid")
    prior = voxel_prior(
        mesh.vertices,
        mesh.faces,
        joints,
        lambda share: progress(0.35 + 0.5 * share, "Measuring the way to every joint"),
    )
    progress(0.87, "Sampling the surface")
    samples = sample_surface(mesh, SKIN_POINTS, seed)
    progress(0.93, "Saving the samples")
    np.savez(
        out,
        points=samples.points,
        normals=samples.normals,
        joints=joints,
        parents=skeleton.parents,
        voxel_skin=at_samples(prior, mesh.faces, samples),
        centre=frame.centre,
        scale=frame.scale,
    )
    progress(1.0, "Samples ready")


def read_skin(
    mesh_path: Path,
    skeleton_path: Path,
    samples: Path,
    weights: Path,
    out: Path,
    progress: Progress,
) -> None:
    """The weights that the network predicted, at every vertex of the mesh."""
    progress(0.02, "Reading the weights")
    mesh, skeleton, frame = load_mesh(mesh_path), load_skeleton(skeleton_path), _load_frame(samples)
    with np.load(samples, allow_pickle=False) as arrays:
        points, prior = arrays["points"], arrays["voxel_skin"]
    with np.load(weights, allow_pickle=False) as arrays:
        predicted = sound_weights(arrays["skin"].astype(np.float32), prior)
    progress(0.06, "Finding the vertices of one place")
    first, index = distinct_rows(mesh.vertices)
    places = frame.normalised(to_z_up(mesh.vertices[first]))
    progress(0.12, "Giving weights to every vertex")
    chunks = []
    for share, dense in vertex_weights(
        points, predicted, places, index[mesh.faces], skeleton.parents
    ):
        progress(0.12 + 0.8 * share, "Giving weights to every vertex")
        chunks.append(strongest_influences(dense))
    joints = np.concatenate([chunk.joints for chunk in chunks])
    values = np.concatenate([chunk.weights for chunk in chunks])
    skin = SkinWeights(joints=joints[index], weights=values[index])
    progress(0.95, "Checking the weights")
    check_weights(mesh, skeleton, skin, MAX_INFLUENCES)
    save_weights(out, skin)
    progress(1.0, "Skin weights ready")


def sound_weights(skin: Float, prior: Float) -> Float:
    """Predicted weights (P, J), with the prior's (P, J) where a point has none.

    Where the prior is 0 for all joints, the network's result is not a number. Raises ValueError
    where that is so for most points, or where there is not one weight for each joint and point.
    """
    if skin.shape != prior.shape:
        raise ValueError(f"weights of shape {skin.shape} came back for samples of {prior.shape}")
    sound = np.isfinite(skin).all(axis=1) & (skin >= 0.0).all(axis=1) & (skin > 0.0).any(axis=1)
    if sound.mean() < 0.5:
        raise ValueError("most of the predicted weights are not usable numbers")
    return np.where(sound[:, None], skin, prior)


def _clean(mesh: Mesh, progress: Progress, end: float) -> CleanMesh:
    progress(0.02, "Checking the mesh")
    check_mesh(mesh)
    progress(0.06, "Uniting and reducing the surface")
    cleaned = clean_mesh(to_z_up(mesh.vertices), mesh.faces)
    progress(end, "Surface ready")
    return cleaned


def _normalised(mesh: CleanMesh, frame: ModelFrame) -> CleanMesh:
    return replace(mesh, vertices=frame.normalised(mesh.vertices))


def _load_frame(samples: Path) -> ModelFrame:
    with np.load(samples, allow_pickle=False) as arrays:
        return ModelFrame(centre=arrays["centre"], scale=np.float32(arrays["scale"]))


def _check_joints(skeleton: Skeleton) -> None:
    try:
        check_tree(skeleton)
    except ValueError as error:
        raise UnfitInputError(str(error)) from error
    if len(skeleton.names) < FEWEST_JOINTS:
        raise UnfitInputError("The skeleton has one joint: there is nothing to share out.")


def _reachable(joints: Float, vertices: Float) -> Float:
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    reach = _REACH * (high - low).max()
    return np.clip(joints, low - reach, high + reach)
