"""Whether a file that was written says the same as the arrays it was written from."""

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import KDTree

from services.inference.formats.gltf import Document, accessor_array, node_tree
from services.inference.geometry import Float, Int, Mesh, Skeleton, SkinWeights

# Shares of the model's longest side.
_VERTEX_TOLERANCE = 1e-3
_JOINT_TOLERANCE = 1e-3
# Mean over vertices of the sum of absolute differences, of at most 2.
_WEIGHT_TOLERANCE = 0.1
_SAMPLES = 50_000


def check_read_back(
    mesh: Mesh,
    skeleton: Skeleton,
    skin: SkinWeights | None,
    read_mesh: Mesh,
    read_skeleton: Skeleton | None,
    read_skin: SkinWeights | None,
) -> None:
    """Raises ValueError, saying what differs, unless the file holds the rig: the surface and the
    joints are where they were, in the same tree, and the vertices follow them as before."""
    points = _spread(len(read_mesh.vertices))
    nearest = _check_surface(mesh, read_mesh, points)
    if read_skeleton is None:
        raise ValueError("it has no skeleton")
    places = _check_joints(skeleton, read_skeleton, mesh.extent)
    if skin is None:
        return
    if read_skin is None:
        # What a skinning that moves everything with one joint looks like once it is written.
        if len(np.unique(skin.joints[skin.weights > 0])) > 1:
            raise ValueError("it has no skin weights")
        return
    count = len(skeleton.names)
    before = _by_joint(skin.joints[nearest], skin.weights[nearest], count)
    after = _by_joint(places[read_skin.joints[points]], read_skin.weights[points], count)
    difference = abs(before - after).sum() / len(points)
    if difference > _WEIGHT_TOLERANCE:
        raise ValueError(f"its skin weights differ by {difference:.3f} on average")


def check_bind_pose(document: Document) -> None:
    """Raises ValueError unless every skin's inverse bind matrices reproduce the rest pose: each
    joint's world matrix times its inverse bind matrix is one and the same for all of a skin's
    joints (glTF 2.0, section 3.7.3)."""
    tree = node_tree(document)
    for skin in document.list("skins"):
        columns = accessor_array(document, skin["inverseBindMatrices"]).astype(np.float64)
        inverses = columns.reshape(-1, 4, 4).transpose(0, 2, 1)
        worlds = np.stack([tree.worlds[joint] for joint in skin["joints"]])
        binds = worlds @ inverses
        reach = np.ptp(worlds[:, :3, 3], axis=0).max()
        for part, scale in ((np.s_[:3, :3], np.abs(binds[0, :3, :3]).max()), (np.s_[:3, 3], reach)):
            difference = np.abs(binds[(..., *part)] - binds[(0, *part)]).max()
            if not difference <= _JOINT_TOLERANCE * scale:
                raise ValueError("its inverse bind matrices do not reproduce the rest pose")


def _check_surface(mesh: Mesh, read_mesh: Mesh, points: Int) -> Int:
    """(P,) the mesh's vertex nearest to each of the points, which are indices of read vertices."""
    tolerance = _VERTEX_TOLERANCE * mesh.extent
    used = np.unique(mesh.faces)
    surface, read = mesh.vertices[used], read_mesh.vertices
    for corner, read_corner in ((surface.min(0), read.min(0)), (surface.max(0), read.max(0))):
        if np.abs(corner - read_corner).max() > tolerance:
            raise ValueError("its mesh has another size or place")
    distances, nearest = KDTree(surface).query(read[points])
    if distances.max() > tolerance:
        raise ValueError("its mesh has another shape")
    return np.asarray(used[nearest], np.int32)


def _check_joints(skeleton: Skeleton, read: Skeleton, extent: float) -> Int:
    """(J,) for each joint that was read its index in the skeleton."""
    index = {name: number for number, name in enumerate(skeleton.names)}
    if set(read.names) != set(skeleton.names):
        raise ValueError("its joints have other names")
    places = np.array([index[name] for name in read.names], np.int32)
    parents = np.where(read.parents < 0, -1, places[read.parents])
    if not np.array_equal(parents, skeleton.parents[places]):
        raise ValueError("its joints form another tree")
    if np.abs(read.heads - skeleton.heads[places]).max() > _JOINT_TOLERANCE * extent:
        raise ValueError("its joints lie elsewhere")
    return places


def _by_joint(joints: Int, weights: Float, count: int) -> csr_array:
    rows = np.repeat(np.arange(len(joints)), joints.shape[1])
    return csr_array((weights.ravel(), (rows, joints.ravel())), shape=(len(joints), count))


def _spread(count: int) -> Int:
    """At most _SAMPLES indices below count, evenly spread."""
    return np.linspace(0, count - 1, min(count, _SAMPLES)).astype(np.int32)
