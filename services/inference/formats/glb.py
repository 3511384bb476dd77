"""Reads a GLB or VRM: its mesh, and its skeleton and weights where it carries a rig.

The rest pose is the bind pose: a skinned mesh is placed where its inverse bind matrices put it,
with the topmost joint of its skin where the file's nodes have it. So one matrix takes each mesh
into rest space, and a rig can be replaced without touching a vertex.

VRM 0.x models face -Z (VRM 0.x specification, "T-pose"); they are turned to face +Z.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.inference.formats.gltf import (
    MALFORMED,
    Document,
    Json,
    Matrix,
    NodeTree,
    accessor_array,
    entry,
    node_tree,
)
from services.inference.formats.joints import joint_tree, says_something, strongest
from services.inference.formats.mesh_checks import checked_mesh, refuse_triangles
from services.inference.formats.program_output import invalid_mesh
from services.inference.geometry import Mesh, Skeleton, SkinWeights

_HALF_TURN = np.diag([-1.0, 1.0, -1.0, 1.0])
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_COMPRESSIONS = ("EXT_meshopt_compression", "KHR_meshopt_compression")


@dataclass(frozen=True)
class Piece:
    """The vertices of one POSITION accessor under one mesh node.

    node: the node. accessor: the POSITION accessor.
    matrix: (4, 4) takes the accessor's vertices to rest space.
    vertices: (n,) int32, each one's index in Mesh.vertices, -1 where no face uses it.
    """

    node: int
    accessor: int
    matrix: Matrix
    vertices: npt.NDArray[np.int32]


@dataclass(frozen=True)
class GlbModel:
    """What a GLB holds: skin is for the vertices of mesh, and notes are for the user."""

    mesh: Mesh
    pieces: tuple[Piece, ...]
    skeleton: Skeleton | None
    skin: SkinWeights | None
    notes: tuple[str, ...]


def count_triangles(description: Json) -> int:
    """The triangles of all mesh nodes, from the JSON chunk alone."""
    try:
        counts = [_triangles_of(description, mesh) for mesh in description.get("meshes", [])]
        used = [node["mesh"] for node in description.get("nodes", []) if "mesh" in node]
        return sum(int(entry(counts, mesh)) for mesh in used)
    except MALFORMED:
        raise invalid_mesh("The GLB file is damaged: its meshes cannot be read.") from None


def _triangles_of(description: Json, mesh: Json) -> int:
    total = 0
    for primitive in mesh["primitives"]:
        index = primitive.get("indices", primitive["attributes"].get("POSITION"))
        corners = entry(description["accessors"], index)["count"] if index is not None else 0
        mode = primitive.get("mode", _TRIANGLES)
        total += {_TRIANGLES: corners // 3, _STRIP: corners - 2, _FAN: corners - 2}.get(mode, 0)
    return total


def read_glb(document: Document, max_triangles: int) -> GlbModel:
    """Reads the scene that is shown. Raises Refusal for anything that is not a sound model."""
    refuse_triangles(count_triangles(document.json), max_triangles)
    used = document.json.get("extensionsUsed", [])
    for compression in _COMPRESSIONS:
        if compression in used:
            raise invalid_mesh(f"The GLB file is compressed with {compression}; save it without.")
    try:
        return _read(document)
    except MALFORMED as error:
        raise invalid_mesh("The GLB file is damaged: its meshes cannot be read.") from error


def rest_matrices(document: Document, tree: NodeTree) -> dict[int, Matrix]:
    """For each mesh node of the shown scene, (4, 4): from its vertices to rest space."""
    nodes = document.list("nodes")
    turn = _HALF_TURN if is_vrm0(document) else np.eye(4)
    matrices = {}
    for index in tree.order:
        node = nodes[index]
        if "mesh" in node:
            skin = node.get("skin")
            local = tree.worlds[index] if skin is None else _bind_matrix(document, tree, skin)
            matrices[index] = turn @ local
    return matrices


def is_mirrored(document: Document, index: int, matrix: Matrix) -> bool:
    """Whether viewers turn a mesh node's faces over (section 3.7.4); a skin's they do not."""
    unskinned = "skin" not in document.list("nodes")[index]
    return unskinned and float(np.linalg.det(matrix[:3, :3])) < 0


def is_vrm0(document: Document) -> bool:
    return "VRM" in document.json.get("extensions", {})


def _inverse_bind_matrices(document: Document, skin: Json) -> npt.NDArray[np.float64]:
    """(J, 4, 4) of a skin; identities where it gives none (section 3.7.3.1)."""
    if "inverseBindMatrices" not in skin:
        return np.tile(np.eye(4), (len(skin["joints"]), 1, 1))
    flat = accessor_array(document, skin["inverseBindMatrices"]).astype(np.float64)
    matrices = flat.reshape(-1, 4, 4).transpose(0, 2, 1)
    if len(matrices) < len(skin["joints"]):
        raise invalid_mesh("The GLB file is damaged: a skin lacks inverse bind matrices.")
    return matrices


def _bind_matrix(document: Document, tree: NodeTree, index: int) -> Matrix:
    """From the vertices a skin moves to world space, by its topmost joint."""
    skin = entry(document.list("skins"), index)
    inverses = _inverse_bind_matrices(document, skin)
    top = min(range(len(skin["joints"])), key=lambda i: len(_ancestors(tree, skin["joints"][i])))
    matrix: Matrix = tree.worlds[skin["joints"][top]] @ inverses[top]
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-30:
        raise invalid_mesh("The GLB file is damaged: a skin's bind matrices have no inverse.")
    return matrix


def _ancestors(tree: NodeTree, node: int) -> list[int]:
    chain = []
    while (node := tree.parents[node]) >= 0:
        chain.append(node)
    return chain


def _read(document: Document) -> GlbModel:
    tree = node_tree(document)
    nodes, meshes = document.list("nodes"), document.list("meshes")
    joints = joint_nodes(document, tree)
    notes: list[str] = []
    if is_vrm0(document):
        notes.append("VRM 0.x models face backwards; the model was turned to face +Z.")

    pieces: list[Piece] = []
    vertices, faces, parts = [], [], []
    names: list[str] = []
    influences: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]] = []
    total = 0
    for index, matrix in rest_matrices(document, tree).items():
        node = nodes[index]
        mesh = entry(meshes, node["mesh"])
        mirrored = is_mirrored(document, index, matrix)
        part_faces = []
        for accessor, primitives in _by_position(mesh):
            positions = accessor_array(document, accessor)[:, :3].astype(np.float64)
            triangles = np.concatenate(
                [primitive_triangles(document, each, len(positions)) for each in primitives]
            )
            used = np.zeros(len(positions), bool)
            used[triangles] = True
            place = np.where(used, np.cumsum(used) - 1 + total, -1).astype(np.int32)
            pieces.append(Piece(index, accessor, matrix, place))
            vertices.append(positions[used] @ matrix[:3, :3].T + matrix[:3, 3])
            part_faces.append(place[triangles[:, :: -1 if mirrored else 1]])
            influences.append(_influences(document, tree, joints, index, primitives[0], used))
            total += int(used.sum())
        if part_faces:
            faces += part_faces
            parts.append(np.full(sum(map(len, part_faces)), len(names), np.int32))
            names.append(str(node.get("name") or mesh.get("name") or f"part_{len(names)}"))
    if not faces:
        raise invalid_mesh("The model has no faces: there is no surface to rig.")
    mesh_read = checked_mesh(
        np.concatenate(vertices).astype(np.float32),
        np.concatenate(faces).astype(np.int32),
        np.concatenate(parts),
        tuple(names),
    )
    skeleton, skin = None, None
    if joints:
        skeleton, place, more = _skeleton(document, tree, joints)
        notes += more
        skin = _skin(influences, place, len(skeleton.names))
    if _has_outside_images(document):
        notes.append("Images that are not inside the file were left out.")
    return GlbModel(mesh_read, tuple(pieces), skeleton, skin, tuple(notes))


def _by_position(mesh: Json) -> Iterable[tuple[int, list[Json]]]:
    """The triangle primitives of a mesh, those that share their vertices together."""
    groups: dict[int, list[Json]] = {}
    for primitive in mesh["primitives"]:
        if "POSITION" in primitive["attributes"] and primitive.get("mode", 4) in (4, 5, 6):
            groups.setdefault(primitive["attributes"]["POSITION"], []).append(primitive)
    return groups.items()


def primitive_triangles(document: Document, primitive: Json, count: int) -> npt.NDArray[Any]:
    """(F, 3) indices into the primitive's vertices (section 3.7.2.1)."""
    if "indices" in primitive:
        corners = accessor_array(document, primitive["indices"])[:, 0].astype(np.int64)
    else:
        corners = np.arange(count)
    if corners.size and not 0 <= corners.min() <= corners.max() < count:
        raise invalid_mesh("The model is damaged: a face refers to a vertex that does not exist.")
    mode = primitive.get("mode", _TRIANGLES)
    if mode == _TRIANGLES:
        return np.reshape(corners[: len(corners) // 3 * 3], (-1, 3))
    if len(corners) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == _FAN:
        return np.stack([np.full(len(corners) - 2, corners[0]), corners[1:-1], corners[2:]], axis=1)
    strip: npt.NDArray[Any] = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    strip[1::2] = strip[1::2, [1, 0, 2]]
    return strip


def joint_nodes(document: Document, tree: NodeTree) -> list[int]:
    """The nodes of all joints in the file's order; a VRM's humanoid bones where nothing is skinned.

    Joints of skins outside the shown scene do not count.
    """
    skins = [skin["joints"] for skin in document.list("skins")]
    joints = dict.fromkeys(node for nodes in skins for node in nodes if node in tree.worlds)
    if joints:
        return list(joints)
    extensions = document.json.get("extensions", {})
    bones = extensions.get("VRMC_vrm", extensions.get("VRM", {})).get("humanoid", {})
    listed = bones.get("humanBones", {})
    entries = listed.values() if isinstance(listed, dict) else listed
    named = {bone["node"] for bone in entries if bone.get("node") in tree.worlds}
    return [node for node in tree.order if node in named]


def _skeleton(
    document: Document, tree: NodeTree, joints: list[int]
) -> tuple[Skeleton, npt.NDArray[np.int32], list[str]]:
    nodes = document.list("nodes")
    number = {node: joint for joint, node in enumerate(joints)}
    parents = [
        next((number[node] for node in _ancestors(tree, joint) if node in number), -1)
        for joint in joints
    ]
    turn = _HALF_TURN if is_vrm0(document) else np.eye(4)
    matrices = _bind_pose(document, tree, joints)
    tips = np.full((len(joints), 3), np.nan)
    for joint, node in enumerate(joints):
        tip = (nodes[node].get("extras") or {}).get("tail")
        if isinstance(tip, list) and len(tip) == 3:
            tips[joint] = (turn @ matrices[node] @ [*tip, 1.0])[:3]
    heads = np.array([(turn @ matrices[node])[:3, 3] for node in joints])
    names = [str(nodes[node].get("name") or "") for node in joints]
    return joint_tree(names, parents, heads, tips)


def _bind_pose(document: Document, tree: NodeTree, joints: list[int]) -> dict[int, Matrix]:
    """(4, 4) world matrix of each joint in the bind pose of the first skin that has it."""
    pose: dict[int, Matrix] = {}
    for index, skin in enumerate(document.list("skins")):
        if not all(joint in tree.worlds for joint in skin["joints"]):
            continue
        bind = _bind_matrix(document, tree, index)
        for joint, inverse in zip(
            skin["joints"], _inverse_bind_matrices(document, skin), strict=False
        ):
            sound = np.isfinite(inverse).all() and abs(np.linalg.det(inverse[:3, :3])) > 1e-30
            pose.setdefault(joint, bind @ np.linalg.inv(inverse) if sound else tree.worlds[joint])
    return {joint: pose.get(joint, tree.worlds[joint]) for joint in joints}


def _influences(
    document: Document,
    tree: NodeTree,
    joints: list[int],
    index: int,
    primitive: Json,
    used: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """(n, K) joints by their place in joints, and weights, of the used vertices of a primitive.

    A mesh without a skin follows the joint it hangs under, if any.
    """
    node, number = document.list("nodes")[index], {n: j for j, n in enumerate(joints)}
    count = int(used.sum())
    if "skin" in node and "JOINTS_0" in primitive["attributes"]:
        skin = entry(document.list("skins"), node["skin"])
        lookup = np.array([number.get(joint, 0) for joint in skin["joints"]], np.int32)
        picked, weights = [], []
        sets = 0
        while f"JOINTS_{sets}" in primitive["attributes"]:
            picked.append(accessor_array(document, primitive["attributes"][f"JOINTS_{sets}"]))
            weights.append(accessor_array(document, primitive["attributes"][f"WEIGHTS_{sets}"]))
            sets += 1
        local = np.concatenate(picked, axis=1)[used].astype(np.int64)
        weight = np.concatenate(weights, axis=1)[used].astype(np.float64)
        if local.size and local[weight > 0].max(initial=0) >= len(lookup):
            raise invalid_mesh("The GLB file is damaged: a weight refers to a missing joint.")
        return lookup[np.minimum(local, len(lookup) - 1)], weight
    above = next((number[n] for n in _ancestors(tree, index) if n in number), None)
    weight = np.full((count, 1), 0.0 if above is None else 1.0)
    return np.full((count, 1), above or 0, np.int32), weight


def _skin(
    influences: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]],
    place: npt.NDArray[np.int32],
    joint_count: int,
) -> SkinWeights | None:
    width = max(joints.shape[1] for joints, _ in influences)
    if not any(weights.any() for _, weights in influences):
        return None
    joints = np.concatenate([_padded(j, width) for j, _ in influences])
    weights = np.concatenate([_padded(w, width) for _, w in influences])
    skin = strongest(place[joints], weights)
    return skin if says_something(skin, joint_count) else None


def _padded(array: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))


def _has_outside_images(document: Document) -> bool:
    return any(is_outside(image) for image in document.list("images"))


def is_outside(image: Json) -> bool:
    """Whether an image lies in another file."""
    return "bufferView" not in image and not str(image.get("uri", "")).startswith("data:")
