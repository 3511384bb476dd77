"""Reads what a rigged GLB shows: triangles, base colours, joints and skinning."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.inference.formats.gltf import (
    MALFORMED,
    Document,
    accessor_array,
    entry,
    node_tree,
    read_glb_document,
    view_bytes,
)
from services.inference.formats.program_output import Refusal

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int32]
Array = npt.NDArray[Any]

_COMPRESSIONS = {"KHR_draco_mesh_compression", "EXT_meshopt_compression"}


class GlbError(Exception):
    """The file is no GLB that can be read; the text says why."""


@dataclass(frozen=True)
class Surface:
    """A base colour: a factor, (3,) float32 in linear light, and an sRGB texture or None."""

    factor: Float
    texture: npt.NDArray[np.uint8] | None


@dataclass(frozen=True)
class RiggedModel:
    """The triangles of a scene and the nodes that move them.

    A vertex follows K bindings; a binding is a node and the matrix from the vertex's space to
    that node's: an inverse bind matrix, or the identity for a mesh without skin (glTF 2.0, 3.7.3).

    positions, normals: (N, 3) float32 as stored; a normal is 0 where the file has none.
    uvs: (N, 2) float32; colours: (N, 3) float32 in linear light, 1 where the file has none.
    influences: (N, K) int32, indices of bindings; weights: (N, K) float32, rows sum to 1.
    faces: (F, 3) int32; face_surfaces: (F,) int32, indices into surfaces.
    binding_nodes: (B,) int32; binding_matrices: (B, 4, 4) float32.
    node_parents: (M,) int32, -1 at the top; node_worlds: (M, 4, 4) float32, rest to world.
    joints: (J,) int32, the nodes that are joints.
    skinned: whether skinning weights follow more than one joint: a file that only carries a
    skeleton may bind everything to its root, as glTF has no skin without weights.
    """

    positions: Float
    normals: Float
    uvs: Float
    colours: Float
    influences: Int
    weights: Float
    faces: Int
    face_surfaces: Int
    surfaces: tuple[Surface, ...]
    binding_nodes: Int
    binding_matrices: Float
    node_names: tuple[str, ...]
    node_parents: Int
    node_worlds: Float
    joints: Int
    skinned: bool


def read_rigged_glb(path: Path) -> RiggedModel:
    """Reads the file's scene; raises GlbError where it is not glTF 2.0 that can be drawn."""
    try:
        document = read_glb_document(path)
        unreadable = _COMPRESSIONS.intersection(document.json.get("extensionsRequired", []))
        if unreadable:
            raise GlbError(f"{path.name} needs {', '.join(sorted(unreadable))}")
        return _read(document)
    except Refusal as refusal:
        raise GlbError(f"{path.name}: {refusal.text}") from refusal
    except MALFORMED as error:
        raise GlbError(f"{path.name} is not valid glTF 2.0: {error!r}") from error


def skin(model: RiggedModel, node_worlds: Float) -> tuple[Float, Float]:
    """Positions and normals (N, 3) in world space, by linear blend skinning.

    node_worlds: (M, 4, 4), the nodes' matrices in the wanted pose.
    """
    matrices = node_worlds[model.binding_nodes] @ model.binding_matrices
    blended = np.zeros((len(model.positions), 3, 4), np.float32)
    for k in range(model.influences.shape[1]):
        blended += model.weights[:, k, None, None] * matrices[model.influences[:, k], :3]
    positions = np.einsum("nij,nj->ni", blended[:, :, :3], model.positions) + blended[:, :, 3]
    normals = np.einsum("nij,nj->ni", blended[:, :, :3], model.normals)
    return positions, normals


@dataclass(frozen=True)
class _Primitive:
    """One primitive's vertices and triangles, and the bindings that they follow."""

    positions: Float
    normals: Float
    uvs: Float
    colours: Float
    influences: Int
    weights: Float
    faces: Int
    surface: int


def _read(document: Document) -> RiggedModel:
    nodes = document.list("nodes")
    parents, worlds = _node_arrays(document)
    skins = document.list("skins")
    binding_nodes = [np.array(skin["joints"], np.int32) for skin in skins]
    binding_matrices = [_inverse_binds(document, skin) for skin in skins]
    skin_starts = np.cumsum([0, *map(len, binding_nodes)])
    rigid_start = int(skin_starts[-1])
    binding_nodes.append(np.arange(len(nodes), dtype=np.int32))
    binding_matrices.append(np.tile(np.eye(4, dtype=np.float32), (len(nodes), 1, 1)))

    primitives: list[_Primitive] = []
    for index, node in enumerate(nodes):
        if "mesh" not in node or not np.isfinite(worlds[index]).all():
            continue
        for primitive in document.list("meshes")[node["mesh"]]["primitives"]:
            if primitive.get("mode", 4) != 4 or "POSITION" not in primitive["attributes"]:
                continue
            start = int(skin_starts[node["skin"]]) if "skin" in node else None
            primitives.append(_read_primitive(document, primitive, start, rigid_start + index))
    if not primitives:
        raise ValueError("the scene has no triangles")

    materials = document.list("materials")
    surfaces = [_read_surface(document, material) for material in materials]
    surfaces.append(Surface(np.full(3, 0.6, np.float32), None))
    width = max(primitive.influences.shape[1] for primitive in primitives)
    sizes = [len(primitive.positions) for primitive in primitives]
    starts = np.cumsum([0, *sizes])
    return RiggedModel(
        positions=np.concatenate([primitive.positions for primitive in primitives]),
        normals=np.concatenate([primitive.normals for primitive in primitives]),
        uvs=np.concatenate([primitive.uvs for primitive in primitives]),
        colours=np.concatenate([primitive.colours for primitive in primitives]),
        influences=np.concatenate([_widened(p.influences, width) for p in primitives]),
        weights=np.concatenate([_widened(p.weights, width) for p in primitives]),
        faces=np.concatenate(
            [p.faces + int(start) for p, start in zip(primitives, starts, strict=False)]
        ).astype(np.int32),
        face_surfaces=np.repeat(
            [p.surface if p.surface >= 0 else len(materials) for p in primitives],
            [len(p.faces) for p in primitives],
        ).astype(np.int32),
        surfaces=tuple(surfaces),
        binding_nodes=np.concatenate(binding_nodes),
        binding_matrices=np.concatenate(binding_matrices),
        node_names=tuple(str(node.get("name", f"node {i}")) for i, node in enumerate(nodes)),
        node_parents=parents,
        node_worlds=np.where(np.isfinite(worlds), worlds, np.eye(4, dtype=np.float32)),
        joints=_joints(nodes, parents, worlds, skins),
        skinned=_follows_joints(primitives, rigid_start),
    )


def _follows_joints(primitives: list[_Primitive], rigid_start: int) -> bool:
    followed = [np.unique(p.influences[p.weights > 0]) for p in primitives]
    joints = np.unique(np.concatenate(followed))
    return int((joints < rigid_start).sum()) > 1


def _node_arrays(document: Document) -> tuple[Int, Float]:
    """Each node's parent, and its matrix to the world; NaN for a node outside the scene."""
    nodes, tree = document.list("nodes"), node_tree(document)
    parents = np.array([tree.parents.get(i, -1) for i in range(len(nodes))], np.int32)
    outside = np.full((4, 4), np.nan)
    worlds = [tree.worlds.get(i, outside) for i in range(len(nodes))]
    return parents, np.array(worlds, np.float32)


def _inverse_binds(document: Document, skin: dict[str, Any]) -> Float:
    if "inverseBindMatrices" not in skin:
        return np.tile(np.eye(4, dtype=np.float32), (len(skin["joints"]), 1, 1))
    stored = accessor_array(document, skin["inverseBindMatrices"]).astype(np.float32)
    return stored.reshape(-1, 4, 4).transpose(0, 2, 1)[: len(skin["joints"])]


def _joints(
    nodes: list[dict[str, Any]], parents: Int, worlds: Float, skins: list[dict[str, Any]]
) -> Int:
    """The skins' joints; without skins, the nodes that stand in a chain and carry no mesh."""
    if skins:
        return np.array(sorted({joint for skin in skins for joint in skin["joints"]}), np.int32)
    bare = {
        index
        for index, node in enumerate(nodes)
        if not {"mesh", "camera"} & node.keys() and np.isfinite(worlds[index]).all()
    }
    carriers = {
        index for index in bare if any(c not in bare for c in nodes[index].get("children", []))
    }
    chained = bare - carriers
    linked = {index for index in chained if int(parents[index]) in chained}
    return np.array(sorted(linked | {int(parents[index]) for index in linked}), np.int32)


def _read_primitive(
    document: Document, primitive: dict[str, Any], skin_start: int | None, rigid: int
) -> _Primitive:
    attributes = primitive["attributes"]
    positions = accessor_array(document, attributes["POSITION"]).astype(np.float32)
    count = len(positions)
    indices = (
        accessor_array(document, primitive["indices"])[:, 0]
        if "indices" in primitive
        else np.arange(count)
    )
    faces = indices[: len(indices) // 3 * 3].reshape(-1, 3).astype(np.int32)
    if faces.size and faces.max() >= count:
        raise ValueError("an index points behind the vertices")

    influences = np.full((count, 1), rigid, np.int32)
    weights = np.ones((count, 1), np.float32)
    sets = [n for n in range(8) if {f"JOINTS_{n}", f"WEIGHTS_{n}"} <= attributes.keys()]
    if skin_start is not None and sets:
        influences = np.hstack([accessor_array(document, attributes[f"JOINTS_{n}"]) for n in sets])
        influences = influences.astype(np.int32) + skin_start
        weights = np.hstack([accessor_array(document, attributes[f"WEIGHTS_{n}"]) for n in sets])
        total = weights.sum(1, keepdims=True)
        weights = (weights / np.where(total > 0, total, 1)).astype(np.float32)

    colours = np.ones((count, 3), np.float32)
    if "COLOR_0" in attributes:
        colours = accessor_array(document, attributes["COLOR_0"])[:, :3].astype(np.float32)
    return _Primitive(
        positions=positions,
        normals=_attribute(document, attributes, "NORMAL", count, 3),
        uvs=_attribute(document, attributes, "TEXCOORD_0", count, 2),
        colours=colours,
        influences=influences,
        weights=weights,
        faces=faces,
        surface=primitive.get("material", -1),
    )


def _attribute(
    document: Document, attributes: dict[str, int], name: str, count: int, width: int
) -> Float:
    if name not in attributes:
        return np.zeros((count, width), np.float32)
    return accessor_array(document, attributes[name]).astype(np.float32)


def _read_surface(document: Document, material: dict[str, Any]) -> Surface:
    metal = material.get("pbrMetallicRoughness", {})
    factor = np.array(metal.get("baseColorFactor", (1, 1, 1, 1))[:3], np.float32)
    if "baseColorTexture" not in metal:
        return Surface(factor, None)
    source = document.list("textures")[metal["baseColorTexture"]["index"]].get("source")
    return Surface(factor, None if source is None else _image(document, source))


def _widened(array: Array, width: int) -> Array:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))


def _image(document: Document, index: int) -> npt.NDArray[np.uint8] | None:
    """(H, W, 3) sRGB, or None for a picture outside the file or of an unknown format."""
    image = entry(document.list("images"), index)
    if "bufferView" in image:
        data = bytes(view_bytes(document, image["bufferView"]))
    elif str(image.get("uri", "")).startswith("data:"):
        data = base64.b64decode(image["uri"].split(",", 1)[1])
    else:
        return None
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, Image.DecompressionBombError):
        return None
