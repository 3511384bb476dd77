"""Puts a rig into a GLB without touching anything else in it.

Vertices, normals, morph targets, materials, textures and extensions stay as they are: what takes
a mesh to rest space goes into the inverse bind matrices (glTF 2.0, section 3.7.3), so meshes with
different world transforms get skins of their own that share the joints. Skinned mesh nodes move to
the scene's root, as their own transforms no longer count. A rig that was there goes, with the
animations that drove it.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.inference.formats.glb import (
    GlbModel,
    is_mirrored,
    is_outside,
    joint_nodes,
    primitive_triangles,
    read_glb,
    rest_matrices,
)
from services.inference.formats.gltf import (
    ARRAY_BUFFER,
    ELEMENT_ARRAY_BUFFER,
    MALFORMED,
    WHITE_PIXEL_PNG,
    Document,
    Json,
    Matrix,
    NodeTree,
    accessor_array,
    accessor_uses,
    add_accessor,
    add_view,
    node_tree,
    shown_roots,
    view_bytes,
)
from services.inference.formats.program_output import invalid_mesh
from services.inference.formats.transfer import rows, same_vertices, vertex_finder
from services.inference.geometry import Mesh, Skeleton, SkinWeights

# They describe the rig that goes; vrm.py writes new ones.
RIG_EXTENSIONS = ("VRM", "VRMC_vrm", "VRMC_springBone", "VRMC_node_constraint")
# The number of each vertex in the mesh that was read, where Blender knew it (not beyond 2**24).
VERTEX_ATTRIBUTE = "_REST_VERTEX"
_SKIN_ATTRIBUTE = re.compile(r"(JOINTS|WEIGHTS)_\d+")
_POINTED_NODE = re.compile(r"^/nodes/(\d+)(/.*)$")
# Extensions that name neither accessors nor buffer views, so that these may be renumbered.
_PLAIN_EXTENSIONS = re.compile(
    r"KHR_(materials_\w+|texture_\w+|mesh_quantization|lights_punctual|xmp_json_ld|animation_pointer)"
    r"|EXT_texture_webp|VRMC?\w*"
)


@dataclass(frozen=True)
class Attached:
    """Where things are in the document now.

    joints: the node of each joint of the skeleton.
    nodes: for each old node that is still there, its index; a mesh node's is where its mesh is.
    """

    joints: tuple[int, ...]
    nodes: dict[int, int]


def glb_of_mesh(mesh: Mesh) -> Document:
    """A document with one mesh node a part, smooth normals, no material."""
    document = Document({"asset": {"version": "2.0"}}, [])
    normals = _smooth_normals(mesh)
    for part, name in enumerate(mesh.part_names):
        faces = mesh.faces[mesh.parts == part]
        if len(faces) == 0:
            continue
        used, corners = np.unique(faces, return_inverse=True)
        position = add_accessor(document, mesh.vertices[used], target=ARRAY_BUFFER, bounds=True)
        normal = add_accessor(document, normals[used], target=ARRAY_BUFFER)
        indices = add_accessor(
            document, corners.astype(np.uint32).ravel(), target=ELEMENT_ARRAY_BUFFER
        )
        primitive = {"attributes": {"POSITION": position, "NORMAL": normal}, "indices": indices}
        document.list("meshes").append({"name": name, "primitives": [primitive]})
        document.list("nodes").append({"name": name, "mesh": len(document.list("meshes")) - 1})
    document.json["scenes"] = [{"nodes": list(range(len(document.list("nodes"))))}]
    document.json["scene"] = 0
    return document


def _smooth_normals(mesh: Mesh) -> npt.NDArray[np.float32]:
    """(N, 3) unit normals, each face counting by its area."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]].astype(np.float64) for corner in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.zeros((len(mesh.vertices), 3))
    for corner in range(3):
        for axis in range(3):
            normals[:, axis] += np.bincount(
                mesh.faces[:, corner], face_normals[:, axis], len(mesh.vertices)
            )
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    flat = lengths[:, 0] <= 1e-30
    normals = np.divide(normals, lengths, out=np.zeros_like(normals), where=~flat[:, None])
    normals[flat] = (0.0, 1.0, 0.0)
    return normals.astype(np.float32)


def attach_rig(
    document: Document,
    mesh: Mesh,
    skeleton: Skeleton,
    skin: SkinWeights | None,
    max_triangles: int,
) -> Attached:
    """Changes the document: its meshes are skinned to the skeleton.

    mesh and skin: the mesh the weights were made for, in rest space; each of the document's
    vertices takes those of the nearest. Without a skin all vertices follow the root, so that the
    skeleton opens as an armature that does not deform anything yet. Raises Refusal where the
    document is damaged.
    """
    model = read_glb(document, max_triangles)
    try:
        return _attach(document, model, mesh, skeleton, skin)
    except MALFORMED as error:
        raise invalid_mesh("The GLB file is damaged: no rig can be put into it.") from error


def _attach(
    document: Document, model: GlbModel, mesh: Mesh, skeleton: Skeleton, skin: SkinWeights | None
) -> Attached:
    vertex_of = _vertex_lookup(document, model, mesh)
    tree = node_tree(document)
    matrices = rest_matrices(document, tree)
    mirrored = [index for index in matrices if is_mirrored(document, index, matrices[index])]
    old_joints = set(joint_nodes(document, tree))
    old_joints.update(joint for entry in document.list("skins") for joint in entry["joints"])

    if not document.list("scenes"):
        document.list("scenes").append({"nodes": shown_roots(document)})
        document.json["scene"] = 0
    _embed_all_images(document)
    _strip_rig(document)
    meshes = {index: _own_mesh(document, index) for index in matrices}
    for index in mirrored:
        _flip_windings(document, document.list("meshes")[meshes[index]])
    moved = {index: _move_to_root(document, tree, index, old_joints) for index in matrices}
    joints = _add_joints(document, skeleton)
    skins = _add_skins(document, skeleton, joints, list(matrices.values()))
    for (index, matrix), skin_index in zip(matrices.items(), skins, strict=True):
        document.list("nodes")[moved[index]]["skin"] = skin_index
        added: dict[int, Json] = {}
        for primitive in document.list("meshes")[meshes[index]]["primitives"]:
            attributes = primitive["attributes"]
            position = attributes.get("POSITION")
            if position is None:
                continue
            if position not in added:
                vertices = _numbered(document, attributes, len(mesh.vertices))
                if vertices is None:
                    vertices = vertex_of(index, position, matrix)
                added[position] = _add_weights(document, rows(skin, vertices), len(joints))
            attributes.pop(VERTEX_ATTRIBUTE, None)
            attributes.update(added[position])
    _retarget_animations(document, moved, old_joints)
    nodes = _remove_nodes(document, tree, old_joints)
    _drop_unused_data(document)
    kept = {old: nodes[moved.get(old, old)] for old in tree.order if moved.get(old, old) in nodes}
    return Attached(tuple(nodes[joint] for joint in joints), kept)


def _vertex_lookup(
    document: Document, model: GlbModel, mesh: Mesh
) -> Callable[[int, int, Matrix], npt.NDArray[Any]]:
    """(node, POSITION accessor, rest matrix) -> (n,) the mesh's vertex for each of its vertices."""
    exact = {}
    nearest_to = vertex_finder(mesh)
    if same_vertices(mesh, model.mesh.vertices):
        exact = {(piece.node, piece.accessor): piece.vertices for piece in model.pieces}

    def look_up(node: int, accessor: int, matrix: Matrix) -> npt.NDArray[Any]:
        known = exact.get((node, accessor))
        if known is not None and (known >= 0).all():
            return known
        positions = accessor_array(document, accessor)[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]
        nearest = nearest_to(np.nan_to_num(positions))
        return nearest if known is None else np.where(known >= 0, known, nearest)

    return look_up


def _numbered(document: Document, attributes: Json, count: int) -> npt.NDArray[Any] | None:
    """The mesh's vertices by their numbers in a primitive, if it has sound ones."""
    if VERTEX_ATTRIBUTE not in attributes:
        return None
    numbers = accessor_array(document, attributes[VERTEX_ATTRIBUTE])[:, 0]
    sound = (numbers >= 0) & (numbers < min(count, 2**24)) & (numbers % 1 == 0)
    return numbers.astype(np.int64) if sound.all() else None


def _embed_all_images(document: Document) -> None:
    """What lies in other files is replaced by a white pixel, so that no index changes."""
    for image in document.list("images"):
        if is_outside(image):
            image.pop("uri", None)
            image["mimeType"] = "image/png"
            image["bufferView"] = add_view(document, WHITE_PIXEL_PNG)


def _strip_rig(document: Document) -> None:
    document.json.pop("skins", None)
    for node in document.list("nodes"):
        node.pop("skin", None)
        _pop_extensions(node)
    for mesh in document.list("meshes"):
        for primitive in mesh["primitives"]:
            for name in [n for n in primitive["attributes"] if _SKIN_ATTRIBUTE.fullmatch(n)]:
                del primitive["attributes"][name]
    _pop_extensions(document.json)
    for key in ("extensionsUsed", "extensionsRequired"):
        if key in document.json:
            document.json[key] = [n for n in document.json[key] if n not in RIG_EXTENSIONS]


def _pop_extensions(holder: Json) -> None:
    for name in RIG_EXTENSIONS:
        holder.get("extensions", {}).pop(name, None)
    if holder.get("extensions") == {}:
        del holder["extensions"]


def _own_mesh(document: Document, index: int) -> int:
    """The mesh of a node; a copy of it where other nodes show it too."""
    nodes, meshes = document.list("nodes"), document.list("meshes")
    node = nodes[index]
    if sum(other.get("mesh") == node["mesh"] for other in nodes) > 1:
        meshes.append(copy.deepcopy(meshes[node["mesh"]]))
        node["mesh"] = len(meshes) - 1
    return int(node["mesh"])


def _flip_windings(document: Document, mesh: Json) -> None:
    """What a viewer does for a mirrored node and does not for a mirroring skin."""
    for primitive in mesh["primitives"]:
        if primitive.get("mode", 4) not in (4, 5, 6) or "POSITION" not in primitive["attributes"]:
            continue
        count = document.list("accessors")[primitive["attributes"]["POSITION"]]["count"]
        turned = primitive_triangles(document, primitive, count)[:, ::-1].astype(np.uint32)
        primitive["mode"] = 4
        primitive["indices"] = add_accessor(document, turned.ravel(), target=ELEMENT_ARRAY_BUFFER)


def _move_to_root(document: Document, tree: NodeTree, index: int, old_joints: set[int]) -> int:
    """The root node that shows the mesh now: the node itself, or a new one where it is more."""
    nodes = document.list("nodes")
    node = nodes[index]
    roots = document.list("scenes")[document.json.get("scene", 0)].setdefault("nodes", [])
    if index in old_joints or node.get("children") or "camera" in node or "extensions" in node:
        nodes.append({key: node.pop(key) for key in ("mesh", "weights") if key in node})
        if "name" in node:
            nodes[-1]["name"] = f"{node['name']}_mesh"
        roots.append(len(nodes) - 1)
        return len(nodes) - 1
    for key in ("matrix", "translation", "rotation", "scale"):
        node.pop(key, None)
    parent = tree.parents[index]
    if parent >= 0:
        nodes[parent]["children"].remove(index)
        if not nodes[parent]["children"]:
            del nodes[parent]["children"]
        roots.append(index)
    return index


def _add_joints(document: Document, skeleton: Skeleton) -> list[int]:
    """A node for each joint, turned like the world, with its bone's tail in its extras.

    They hang under a node of their own, as an armature does in Blender.
    """
    nodes = document.list("nodes")
    first = len(nodes) + 1
    nodes.append({"name": "Armature", "children": [first]})
    for joint, name in enumerate(skeleton.names):
        parent = int(skeleton.parents[joint])
        offset = skeleton.heads[joint] - (skeleton.heads[parent] if parent >= 0 else 0)
        tail = skeleton.tails[joint] - skeleton.heads[joint]
        node: Json = {"name": name, "translation": offset.tolist()}
        node["extras"] = {"tail": tail.tolist()}
        nodes.append(node)
        if parent >= 0:
            nodes[first + parent].setdefault("children", []).append(first + joint)
    scene = document.list("scenes")[document.json.get("scene", 0)]
    scene.setdefault("nodes", []).append(first - 1)
    return list(range(first, len(nodes)))


def _add_skins(
    document: Document, skeleton: Skeleton, joints: list[int], matrices: list[Matrix]
) -> list[int]:
    """The skin of each mesh node; nodes with the same rest matrix share one.

    The last skin is that of a mesh that lies in rest space already, whether there is one or not:
    Blender's importer takes the rest pose of the bones from the last skin.
    """
    keys = [np.round(matrix, 9).tobytes() for matrix in matrices]
    kinds = dict(zip(keys, matrices, strict=True))
    identity = np.eye(4)
    kinds.pop(identity.tobytes(), None)
    kinds[identity.tobytes()] = identity
    for matrix in kinds.values():
        inverses = np.tile(matrix, (len(joints), 1, 1))
        inverses[:, :3, 3] -= skeleton.heads
        inverses[:, 3] = (0.0, 0.0, 0.0, 1.0)
        flat = inverses.transpose(0, 2, 1).reshape(-1, 16).astype(np.float32)
        document.list("skins").append(
            {
                "joints": list(joints),
                "skeleton": joints[0],
                "inverseBindMatrices": add_accessor(document, flat),
            }
        )
    return [list(kinds).index(key) for key in keys]


def _add_weights(document: Document, skin: SkinWeights, joint_count: int) -> Json:
    joints = skin.joints.astype(np.uint8 if joint_count <= 256 else np.uint16)
    return {
        "JOINTS_0": add_accessor(document, joints, target=ARRAY_BUFFER),
        "WEIGHTS_0": add_accessor(document, skin.weights, target=ARRAY_BUFFER),
    }


def _retarget_animations(document: Document, moved: dict[int, int], gone: set[int]) -> None:
    """Only what still has an effect stays: no channel of an old joint or a skinned node's place."""
    kept = []
    for animation in document.list("animations"):
        channels = [c for c in animation["channels"] if _follow(c["target"], moved, gone)]
        used = sorted({channel["sampler"] for channel in channels})
        for channel in channels:
            channel["sampler"] = used.index(channel["sampler"])
        if channels:
            samplers = [animation["samplers"][sampler] for sampler in used]
            kept.append({**animation, "channels": channels, "samplers": samplers})
    document.json["animations"] = kept


def _follow(target: Json, moved: dict[int, int], gone: set[int]) -> bool:
    node = target.get("node")
    if node is None:
        return not _points_to(target, gone | set(moved))
    if node in gone or (node in moved and target["path"] != "weights"):
        return False
    target["node"] = moved.get(node, node)
    return True


def _pointer(target: Json) -> Json:
    found = target.get("extensions", {}).get("KHR_animation_pointer", {})
    return found if isinstance(found, dict) else {}


def _points_to(target: Json, nodes: set[int]) -> bool:
    found = _POINTED_NODE.match(str(_pointer(target).get("pointer", "")))
    return found is not None and int(found[1]) in nodes


def _remove_nodes(document: Document, tree: NodeTree, old_joints: set[int]) -> dict[int, int]:
    """Removes old joints and the nodes that only held them; returns old index -> new index.

    What hangs on an old joint and shows something (a camera, a light) stays where it was in the
    world, under the nearest node that remains.
    """
    nodes = document.list("nodes")
    gone = set(old_joints)
    for index in reversed(tree.order):
        below = [child for child in nodes[index].get("children", []) if child not in gone]
        if index not in gone and not below and not _shows_something(nodes[index]):
            held = any(c in gone for c in nodes[index].get("children", []))
            if held or any(a in old_joints for a in _ancestors(tree, index)):
                gone.add(index)
    for index in tree.order:
        if index in gone or tree.parents[index] not in gone:
            continue
        anchor = next((a for a in _ancestors(tree, index) if a not in gone), None)
        _hang_under(document, tree, index, anchor)
    return _renumber_nodes(document, gone)


def _shows_something(node: Json) -> bool:
    return "mesh" in node or "camera" in node or "extensions" in node


def _ancestors(tree: NodeTree, node: int) -> list[int]:
    chain = []
    while (node := tree.parents.get(node, -1)) >= 0:
        chain.append(node)
    return chain


def _hang_under(document: Document, tree: NodeTree, index: int, anchor: int | None) -> None:
    nodes = document.list("nodes")
    node = nodes[index]
    roots = document.list("scenes")[document.json.get("scene", 0)]["nodes"]
    siblings = roots if anchor is None else nodes[anchor].setdefault("children", [])
    if index in siblings:
        return  # a mesh node that moved to the root already
    siblings.append(index)
    above = np.eye(4) if anchor is None else tree.worlds[anchor]
    for key in ("translation", "rotation", "scale"):
        node.pop(key, None)
    node["matrix"] = (np.linalg.inv(above) @ tree.worlds[index]).T.ravel().tolist()


def _renumber_nodes(document: Document, gone: set[int]) -> dict[int, int]:
    nodes = document.list("nodes")
    staying = [index for index in range(len(nodes)) if index not in gone]
    number = {old: new for new, old in enumerate(staying)}
    document.json["nodes"] = [nodes[index] for index in staying]
    for holder, key in [(node, "children") for node in document.list("nodes")] + [
        (scene, "nodes") for scene in document.list("scenes")
    ]:
        if key in holder:
            holder[key] = [number[index] for index in holder[key] if index in number]
            if not holder[key]:
                del holder[key]
    for skin in document.list("skins"):
        skin["joints"] = [number[joint] for joint in skin["joints"]]
        skin["skeleton"] = number[skin["skeleton"]]
    for animation in document.list("animations"):
        for channel in animation["channels"]:
            target = channel["target"]
            if "node" in target:
                target["node"] = number[target["node"]]
            elif found := _POINTED_NODE.match(str(_pointer(target).get("pointer", ""))):
                _pointer(target)["pointer"] = f"/nodes/{number[int(found[1])]}{found[2]}"
    return number


def _drop_unused_data(document: Document) -> None:
    """Takes out accessors and bytes that nothing names any more.

    Only where no extension could name them too; otherwise they stay, which is harmless.
    """
    used_extensions = document.json.get("extensionsUsed", [])
    if not all(_PLAIN_EXTENSIONS.fullmatch(str(name)) for name in used_extensions):
        return
    places = list(accessor_uses(document))
    accessors = sorted({get() for get, _ in places})
    number = {old: new for new, old in enumerate(accessors)}
    for get, put in places:
        put(number[get()])
    document.json["accessors"] = [document.list("accessors")[old] for old in accessors]
    _compact_views(document)


def _compact_views(document: Document) -> None:
    holders: list[Json] = []
    for accessor in document.list("accessors"):
        sparse: dict[str, Any] = accessor.get("sparse", {})
        holders += [accessor, *(sparse[key] for key in ("indices", "values") if key in sparse)]
    holders += document.list("images")
    holders = [holder for holder in holders if "bufferView" in holder]
    views = sorted({holder["bufferView"] for holder in holders})
    compact = Document({}, [])
    for old in views:
        template = document.list("bufferViews")[old]
        add_view(compact, bytes(view_bytes(document, old)))
        view = compact.list("bufferViews")[-1]
        view.update({k: v for k, v in template.items() if k not in view})
    number = {old: new for new, old in enumerate(views)}
    for holder in holders:
        holder["bufferView"] = number[holder["bufferView"]]
    document.json["bufferViews"] = compact.list("bufferViews")
    document.buffers = compact.buffers
