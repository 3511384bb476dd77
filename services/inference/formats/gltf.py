"""The glTF 2.0 binary container: chunks, accessors, node transforms.

Source: Khronos glTF 2.0 specification, sections 3.5 (scenes and nodes), 3.6 (accessors) and 4.4
(GLB). Every number in a file is a stranger's: whatever points outside the file is refused.
"""

import base64
import binascii
import json
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.inference.formats.program_output import invalid_mesh

Matrix = npt.NDArray[np.float64]
Json = dict[str, Any]

_MAGIC, _JSON_CHUNK, _BINARY_CHUNK = b"glTF", 0x4E4F534A, 0x004E4942
_DTYPES: dict[int, type[np.generic]] = {
    **{5120: np.int8, 5121: np.uint8, 5122: np.int16},
    **{5123: np.uint16, 5125: np.uint32, 5126: np.float32},
}
_COMPONENT_TYPES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
# What a file's own numbers and types can raise when they are not what they should be.
MALFORMED = (
    *(KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError),
    RecursionError,
)
# No accessor of a file under the upload limit has more, so none can ask for more memory.
_MAX_ELEMENTS = 100_000_000
# A JSON chunk costs about twenty times its size in memory once parsed.
_MAX_JSON_BYTES = 64 * 1024**2
# JSON can write half a character, which no other text can hold.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# A white pixel for images that are not inside the file.
WHITE_PIXEL_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4//8/AAX+Av4zEpUUAAAAAElFTkSuQmCC"
)


@dataclass
class Document:
    """A GLB in memory: the JSON chunk as parsed, and the buffers' bytes (index = buffer)."""

    json: Json
    buffers: list[bytearray]

    def list(self, key: str) -> list[Json]:
        """A top-level array such as "nodes", created where the file has none."""
        entries: list[Json] = self.json.setdefault(key, [])
        return entries


def read_json(path: Path) -> Json:
    """The JSON chunk of a GLB file, without its binary. Raises Refusal."""
    with path.open("rb") as file:
        header = file.read(20)
        if len(header) < 20 or header[:4] != _MAGIC:
            raise invalid_mesh("The file is not a binary glTF (GLB) file.")
        version, total, length, kind = struct.unpack("<IIII", header[4:])
        if version != 2:
            raise invalid_mesh(f"The GLB file has version {version}; only version 2 is supported.")
        if total > path.stat().st_size:
            raise invalid_mesh("The GLB file is truncated: it is shorter than it says.")
        if kind != _JSON_CHUNK or length > total - 20:
            raise invalid_mesh("The GLB file is damaged: its JSON chunk is missing.")
        if length > _MAX_JSON_BYTES:
            raise invalid_mesh("The GLB file's description (JSON chunk) is too large.")
        chunk = file.read(length)
    try:
        document = json.loads(chunk.decode("utf-8"))
        if _SURROGATE.search(chunk):
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise invalid_mesh("The GLB file is damaged: its JSON chunk cannot be read.") from None
    if not isinstance(document, dict):
        raise invalid_mesh("The GLB file is damaged: its JSON chunk is no object.")
    return document


def read_glb_document(path: Path) -> Document:
    """A GLB file with all its buffers. Raises Refusal where a buffer is outside the file."""
    description = read_json(path)
    data = path.read_bytes()
    binary = b""
    (json_length,) = struct.unpack_from("<I", data, 12)
    offset = 20 + json_length
    while offset + 8 <= len(data):
        length, kind = struct.unpack_from("<II", data, offset)
        if offset + 8 + length > len(data):
            raise invalid_mesh("The GLB file is truncated: its binary chunk is cut off.")
        if kind == _BINARY_CHUNK:
            binary = data[offset + 8 : offset + 8 + length]
            break
        offset += 8 + length
    buffers = []
    for index, buffer in enumerate(description.get("buffers", [])):
        uri = buffer.get("uri")
        content = binary if uri is None and index == 0 else _data_uri(uri)
        if len(content) < buffer["byteLength"]:
            raise invalid_mesh("The GLB file is damaged: a buffer is shorter than it says.")
        buffers.append(bytearray(content[: buffer["byteLength"]]))
    return Document(description, buffers)


def _data_uri(uri: object) -> bytes:
    if not isinstance(uri, str) or not uri.startswith("data:") or ";base64," not in uri:
        raise invalid_mesh("The GLB file keeps its data in other files; pack it into one file.")
    try:
        return base64.b64decode(uri.split(";base64,", 1)[1], validate=True)
    except binascii.Error:
        raise invalid_mesh("The GLB file is damaged: an embedded buffer cannot be read.") from None


def write_glb_document(path: Path, document: Document) -> None:
    """Writes one JSON chunk and one binary chunk; several buffers become one."""
    binary = _joined_buffers(document)
    description = dict(document.json)
    if not binary:
        description.pop("buffers", None)
    for key in [key for key, value in description.items() if value == [] or value == {}]:
        del description[key]  # empty arrays and objects are not allowed
    text = json.dumps(description, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 4)
    chunks = [struct.pack("<II", len(text), _JSON_CHUNK), text]
    if binary:
        binary += bytes(-len(binary) % 4)
        chunks += [struct.pack("<II", len(binary), _BINARY_CHUNK), bytes(binary)]
    total = 12 + sum(len(chunk) for chunk in chunks)
    with path.open("wb") as file:
        file.write(struct.pack("<4sII", _MAGIC, 2, total))
        file.writelines(chunks)


def _joined_buffers(document: Document) -> bytearray:
    joined, starts = bytearray(), []
    for buffer in document.buffers:
        joined += bytes(-len(joined) % 16)
        starts.append(len(joined))
        joined += buffer
    for view in document.list("bufferViews"):
        view["byteOffset"] = view.get("byteOffset", 0) + starts[view["buffer"]]
        view["buffer"] = 0
    document.buffers = [joined]
    document.json["buffers"] = [{"byteLength": len(joined)}]
    return joined


def view_bytes(document: Document, index: int) -> memoryview:
    """The bytes of one buffer view."""
    view = entry(document.list("bufferViews"), index)
    buffer = memoryview(entry(document.buffers, view["buffer"]))
    start, length = view.get("byteOffset", 0), view["byteLength"]
    if not (start >= 0 and length >= 0 and start + length <= len(buffer)):
        raise invalid_mesh("The GLB file is damaged: a buffer view lies outside its buffer.")
    return buffer[start : start + length]


def entry(entries: list[Any], index: object) -> Any:
    """entries[index] for an index from a file: negative or too large is refused."""
    if not isinstance(index, int) or not 0 <= index < len(entries):
        raise invalid_mesh("The GLB file is damaged: it refers to something it does not hold.")
    return entries[index]


def accessor_array(document: Document, index: int) -> npt.NDArray[Any]:
    """The elements of an accessor: (count, components); normalised integers become floats."""
    accessor = entry(document.list("accessors"), index)
    dtype = np.dtype(_DTYPES[accessor["componentType"]]).newbyteorder("<")
    width, count = _COMPONENTS[accessor["type"]], accessor["count"]
    if not 0 < count <= _MAX_ELEMENTS:
        raise invalid_mesh("The GLB file is damaged: an accessor has an impossible size.")
    if "bufferView" in accessor:
        view = entry(document.list("bufferViews"), accessor["bufferView"])
        array = _elements(
            view_bytes(document, accessor["bufferView"]),
            *(dtype, accessor.get("byteOffset", 0), view.get("byteStride"), count, width),
        )
    else:
        array = np.zeros((count, width), dtype)
    if "sparse" in accessor:
        array = _with_sparse(document, array.copy(), accessor["sparse"])
    if accessor.get("normalized") and dtype.kind in "iu":
        largest = 2 ** (8 * dtype.itemsize - (dtype.kind == "i")) - 1
        scaled: npt.NDArray[Any] = np.maximum(array / largest, -1.0).astype(np.float32)
        return scaled
    return array


def _elements(
    content: memoryview,
    dtype: np.dtype[Any],
    start: int,
    stride: int | None,
    count: int,
    width: int,
) -> npt.NDArray[Any]:
    size = dtype.itemsize * width
    step = stride or size
    if start < 0 or step < size or start + step * (count - 1) + size > len(content):
        raise invalid_mesh("The GLB file is damaged: an accessor lies outside its buffer view.")
    strides = (step, dtype.itemsize)
    return np.ndarray((count, width), dtype, buffer=content, offset=start, strides=strides)


def _with_sparse(document: Document, array: npt.NDArray[Any], sparse: Json) -> npt.NDArray[Any]:
    count, where, what = sparse["count"], sparse["indices"], sparse["values"]
    index_type = np.dtype(_DTYPES[where["componentType"]]).newbyteorder("<")
    indices = _elements(
        view_bytes(document, where["bufferView"]),
        *(index_type, where.get("byteOffset", 0), None, count, 1),
    )[:, 0]
    values = _elements(
        view_bytes(document, what["bufferView"]),
        *(array.dtype, what.get("byteOffset", 0), None, count, array.shape[1]),
    )
    if indices.size and indices.max() >= len(array):
        raise invalid_mesh("The GLB file is damaged: a sparse accessor lies outside its base.")
    array[indices] = values
    return array


def add_view(document: Document, content: bytes, target: int | None = None) -> int:
    """Appends bytes as a new buffer view; returns its index."""
    if not document.buffers:
        document.buffers.append(bytearray())
        document.json["buffers"] = [{"byteLength": 0}]
    buffer = document.buffers[0]
    buffer += bytes(-len(buffer) % 4)
    view: Json = {"buffer": 0, "byteOffset": len(buffer), "byteLength": len(content)}
    if target is not None:
        view["target"] = target
    buffer += content
    document.list("bufferViews").append(view)
    return len(document.list("bufferViews")) - 1


def add_accessor(
    document: Document,
    array: npt.NDArray[Any],
    *,
    target: int | None = None,
    bounds: bool = False,
) -> int:
    """Appends an array (count,) or (count, components) as a new accessor; returns its index."""
    elements = array.reshape(len(array), -1)
    accessor: Json = {
        "bufferView": add_view(document, np.ascontiguousarray(elements).tobytes(), target),
        "componentType": _COMPONENT_TYPES[elements.dtype],
        "count": len(elements),
        "type": _KINDS[elements.shape[1]],
    }
    if bounds:
        accessor["min"] = elements.min(axis=0).tolist()
        accessor["max"] = elements.max(axis=0).tolist()
    document.list("accessors").append(accessor)
    return len(document.list("accessors")) - 1


def local_matrix(node: Json) -> Matrix:
    """A node's transform relative to its parent: (4, 4), column vectors."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), dtype=np.float64)
    length = x * x + y * y + z * z + w * w
    s = 2.0 / length if length > 0 else 0.0
    rotation = np.array(
        [
            [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
            [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
            [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)), dtype=np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


@dataclass(frozen=True)
class NodeTree:
    """The nodes of the scene that is shown.

    order: node indices, parents before children.
    parents: the parent of each node in order (-1 for roots).
    worlds: (4, 4) world matrix of each node in order.
    """

    order: tuple[int, ...]
    parents: dict[int, int]
    worlds: dict[int, Matrix]


def shown_roots(document: Document) -> list[int]:
    """The root nodes of the scene that is shown; of the whole file where it has no scenes."""
    scenes = document.list("scenes")
    if scenes:
        return list(entry(scenes, document.json.get("scene", 0)).get("nodes", []))
    nodes = document.list("nodes")
    children = {child for node in nodes for child in node.get("children", [])}
    return [index for index in range(len(nodes)) if index not in children]


def node_tree(document: Document) -> NodeTree:
    """The shown scene's nodes with their world matrices. Refuses a node with two parents."""
    nodes = document.list("nodes")
    order: list[int] = []
    parents: dict[int, int] = {}
    worlds: dict[int, Matrix] = {}
    stack = [(root, -1) for root in reversed(shown_roots(document))]
    while stack:
        index, parent = stack.pop()
        node = entry(nodes, index)
        if index in parents:
            raise invalid_mesh("The GLB file is damaged: its nodes are not a tree.")
        matrix = local_matrix(node)
        order.append(index)
        parents[index] = parent
        worlds[index] = matrix if parent < 0 else worlds[parent] @ matrix
        stack += [(child, index) for child in reversed(node.get("children", []))]
    return NodeTree(tuple(order), parents, worlds)


def accessor_uses(document: Document) -> Iterator[tuple[Callable[[], int], Callable[[int], None]]]:
    """Every place of the core specification that names an accessor, as (get, set)."""

    def place(holder: Json, key: str) -> tuple[Callable[[], int], Callable[[int], None]]:
        return (lambda: int(holder[key])), (lambda value: holder.__setitem__(key, value))

    for mesh in document.list("meshes"):
        for primitive in mesh["primitives"]:
            if "indices" in primitive:
                yield place(primitive, "indices")
            for attributes in (primitive["attributes"], *primitive.get("targets", [])):
                for name in attributes:
                    yield place(attributes, name)
    for skin in document.list("skins"):
        if "inverseBindMatrices" in skin:
            yield place(skin, "inverseBindMatrices")
    for animation in document.list("animations"):
        for sampler in animation["samplers"]:
            yield place(sampler, "input")
            yield place(sampler, "output")
