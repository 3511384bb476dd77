"""Reads what a rigged GLB shows: triangles, base colours, joints and skinning."""

import base64
import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int32]
Array = npt.NDArray[Any]

_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
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
    document, chunk = _split(path.read_bytes())
    try:
        return _read(_Document(document, chunk))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
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


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    if len(data) < 20 or data[:4] != b"glTF" or struct.unpack_from("<I", data, 4)[0] != 2:
        raise GlbError("not a binary glTF 2.0 file")
    chunks: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= len(data):
        length, kind = struct.unpack_from("<I4s", data, at)
        chunks.setdefault(kind, data[at + 8 : at + 8 + length])
        at += 8 + length
    try:
        document = json.loads(chunks[b"JSON"])
    except (KeyError, ValueError) as error:
        raise GlbError("the JSON chunk is missing or damaged") from error
    unreadable = _COMPRESSIONS.intersection(document.get("extensionsRequired", []))
    if unreadable:
        raise GlbError(f"needs {', '.join(sorted(unreadable))}, which this reader has not")
    return document, chunks.get(b"BIN\0", b"")


class _Document:
    """Access to the arrays of one glTF document."""

    def __init__(self, document: dict[str, Any], chunk: bytes) -> None:
        self._document = document
        self._chunk = chunk

    def entries(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._document.get(name, [])
        return found

    def scene_roots(self) -> list[int]:
        """The nodes at the top of the scene that is shown."""
        scenes = self.entries("scenes")
        if scenes:
            roots: list[int] = scenes[self._document.get("scene", 0)].get("nodes", [])
            return roots
        children = {child for node in self.entries("nodes") for child in node.get("children", [])}
        return [index for index in range(len(self.entries("nodes"))) if index not in children]

    def accessor(self, index: int) -> Array:
        """An accessor's (count, width) array; normalised integers come as floats (3.6.2)."""
        accessor = self.entries("accessors")[index]
        count, width = accessor["count"], _WIDTHS[accessor["type"]]
        kind = np.dtype(_COMPONENTS[accessor["componentType"]])
        if "bufferView" in accessor:
            at = accessor.get("byteOffset", 0)
            values = self._strided(accessor["bufferView"], at, count, width, kind).copy()
        else:
            values = np.zeros((count, width), kind)
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            places, entries = sparse["indices"], sparse["values"]
            place_kind = np.dtype(_COMPONENTS[places["componentType"]])
            changed = self._strided(
                places["bufferView"], places.get("byteOffset", 0), sparse["count"], 1, place_kind
            )
            values[changed[:, 0]] = self._strided(
                entries["bufferView"], entries.get("byteOffset", 0), sparse["count"], width, kind
            )
        if accessor.get("normalized") and kind.kind in "iu":
            return np.maximum(values.astype(np.float32) / np.iinfo(kind).max, -1)
        return values

    def view(self, index: int) -> bytes:
        view = self.entries("bufferViews")[index]
        start = view.get("byteOffset", 0)
        return self._buffer(view["buffer"])[start : start + view["byteLength"]]

    def image(self, index: int) -> npt.NDArray[np.uint8] | None:
        """(H, W, 3) sRGB, or None for a picture outside the file or of an unknown format."""
        image = self.entries("images")[index]
        if "bufferView" in image:
            data = self.view(image["bufferView"])
        elif str(image.get("uri", "")).startswith("data:"):
            data = base64.b64decode(image["uri"].split(",", 1)[1])
        else:
            return None
        try:
            with Image.open(io.BytesIO(data)) as picture:
                return np.asarray(picture.convert("RGB"))
        except (OSError, Image.DecompressionBombError):
            return None

    def _buffer(self, index: int) -> bytes:
        uri = self.entries("buffers")[index].get("uri")
        if uri is None:
            return self._chunk
        if not uri.startswith("data:"):
            raise ValueError("a buffer lies outside the file")
        return base64.b64decode(uri.split(",", 1)[1])

    def _strided(self, view: int, at: int, count: int, width: int, kind: np.dtype[Any]) -> Array:
        stride = self.entries("bufferViews")[view].get("byteStride", width * kind.itemsize)
        strides = (stride, kind.itemsize)
        return np.ndarray((count, width), kind, self.view(view), at, strides)


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


def _read(document: _Document) -> RiggedModel:
    nodes = document.entries("nodes")
    parents, worlds = _node_tree(document)
    skins = document.entries("skins")
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
        for primitive in document.entries("meshes")[node["mesh"]]["primitives"]:
            if primitive.get("mode", 4) != 4 or "POSITION" not in primitive["attributes"]:
                continue
            start = int(skin_starts[node["skin"]]) if "skin" in node else None
            primitives.append(_read_primitive(document, primitive, start, rigid_start + index))
    if not primitives:
        raise ValueError("the scene has no triangles")

    materials = document.entries("materials")
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


def _node_tree(document: _Document) -> tuple[Int, Float]:
    """Each node's parent, and its matrix to the world; NaN for a node outside the scene."""
    nodes = document.entries("nodes")
    parents = np.full(len(nodes), -1, np.int32)
    worlds = np.full((len(nodes), 4, 4), np.nan, np.float32)
    waiting = [(root, -1) for root in document.scene_roots()]
    seen: set[int] = set()
    while waiting:
        index, parent = waiting.pop()
        if index in seen:
            raise ValueError("the nodes form a loop")
        seen.add(index)
        local = _local(nodes[index])
        parents[index] = parent
        worlds[index] = local if parent < 0 else worlds[parent] @ local
        waiting += [(child, index) for child in nodes[index].get("children", [])]
    return parents, worlds


def _local(node: dict[str, Any]) -> Float:
    if "matrix" in node:
        return np.array(node["matrix"], np.float32).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    local = np.eye(4, dtype=np.float32)
    local[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)))
    local[:3, 3] = node.get("translation", (0, 0, 0))
    return local


def _inverse_binds(document: _Document, skin: dict[str, Any]) -> Float:
    if "inverseBindMatrices" not in skin:
        return np.tile(np.eye(4, dtype=np.float32), (len(skin["joints"]), 1, 1))
    stored = document.accessor(skin["inverseBindMatrices"]).astype(np.float32)
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
    document: _Document, primitive: dict[str, Any], skin_start: int | None, rigid: int
) -> _Primitive:
    attributes = primitive["attributes"]
    positions = document.accessor(attributes["POSITION"]).astype(np.float32)
    count = len(positions)
    indices = (
        document.accessor(primitive["indices"])[:, 0]
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
        influences = np.hstack([document.accessor(attributes[f"JOINTS_{n}"]) for n in sets])
        influences = influences.astype(np.int32) + skin_start
        weights = np.hstack([document.accessor(attributes[f"WEIGHTS_{n}"]) for n in sets])
        total = weights.sum(1, keepdims=True)
        weights = (weights / np.where(total > 0, total, 1)).astype(np.float32)

    colours = np.ones((count, 3), np.float32)
    if "COLOR_0" in attributes:
        colours = document.accessor(attributes["COLOR_0"])[:, :3].astype(np.float32)
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
    document: _Document, attributes: dict[str, int], name: str, count: int, width: int
) -> Float:
    if name not in attributes:
        return np.zeros((count, width), np.float32)
    return document.accessor(attributes[name]).astype(np.float32)


def _read_surface(document: _Document, material: dict[str, Any]) -> Surface:
    metal = material.get("pbrMetallicRoughness", {})
    factor = np.array(metal.get("baseColorFactor", (1, 1, 1, 1))[:3], np.float32)
    if "baseColorTexture" not in metal:
        return Surface(factor, None)
    source = document.entries("textures")[metal["baseColorTexture"]["index"]].get("source")
    return Surface(factor, None if source is None else document.image(source))


def _widened(array: Array, width: int) -> Array:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))
