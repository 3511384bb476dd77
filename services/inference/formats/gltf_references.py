"""Whether the parts of a glTF description fit together, before anything is made of them.

Our own reader looks at the meshes only, but Blender, which writes the FBX result, follows every
reference of the file: one that leads nowhere would end it in the middle of a job.

Source: Khronos glTF 2.0 specification, section 5 (properties reference).
"""

from collections.abc import Iterator
from typing import Any

from services.inference.formats.gltf import MALFORMED, Json, entry
from services.inference.formats.mesh_checks import refuse_parts
from services.inference.formats.program_output import invalid_mesh

# Where an index stands ("*": each element or value), and the top-level array it points into.
_REFERENCES = (
    ("bufferViews * buffer", "buffers"),
    ("accessors * bufferView", "bufferViews"),
    ("accessors * sparse indices bufferView", "bufferViews"),
    ("accessors * sparse values bufferView", "bufferViews"),
    ("images * bufferView", "bufferViews"),
    ("textures * source", "images"),
    ("textures * sampler", "samplers"),
    ("materials * pbrMetallicRoughness baseColorTexture index", "textures"),
    ("materials * pbrMetallicRoughness metallicRoughnessTexture index", "textures"),
    ("materials * normalTexture index", "textures"),
    ("materials * occlusionTexture index", "textures"),
    ("materials * emissiveTexture index", "textures"),
    ("meshes * primitives * attributes *", "accessors"),
    ("meshes * primitives * targets * *", "accessors"),
    ("meshes * primitives * indices", "accessors"),
    ("meshes * primitives * material", "materials"),
    ("skins * joints *", "nodes"),
    ("skins * inverseBindMatrices", "accessors"),
    ("skins * skeleton", "nodes"),
    ("nodes * mesh", "meshes"),
    ("nodes * skin", "skins"),
    ("nodes * camera", "cameras"),
    ("nodes * children *", "nodes"),
    ("animations * channels * target node", "nodes"),
    ("animations * samplers * input", "accessors"),
    ("animations * samplers * output", "accessors"),
    ("scenes * nodes *", "nodes"),
)
_NAMED = ("nodes", "meshes", "materials", "images", "textures", "skins", "animations", "cameras")
# Blender goes down the nodes by recursion, and Python's ends at a thousand.
_MAX_DEPTH = 500


def check_references(description: Json) -> None:
    """Raises Refusal where a reference leads nowhere, where what belongs together does not fit, or
    where there are too many parts."""
    try:
        for path, target in _REFERENCES:
            for index in _values(description, path.split()):
                entry(_list(description.get(target, [])), index)
        _check_values(description)
        _check_vertex_counts(description)
        _check_tree(description)
        refuse_parts(_count_parts(description))
    except MALFORMED as error:
        raise invalid_mesh("The GLB file is damaged: its description cannot be read.") from error


def _values(holder: Any, path: list[str]) -> Iterator[Any]:
    """Everything that stands at the path; what is not there is left out."""
    if not path:
        yield holder
    elif path[0] == "*":
        for value in holder.values() if isinstance(holder, dict) else _list(holder):
            yield from _values(value, path[1:])
    elif path[0] in _object(holder):
        yield from _values(holder[path[0]], path[1:])


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not an array")
    return value


def _object(value: object) -> Json:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _check_values(description: Json) -> None:
    if not isinstance(description["asset"]["version"], str):
        raise TypeError("not a version")
    _object(description.get("extensions", {}))
    _list(description.get("extensionsUsed", []))
    for length in _values(description, ["buffers", "*", "byteLength"]):
        if not isinstance(length, int) or length < 0:
            raise TypeError("not a size")
    for count in _values(description, ["accessors", "*", "count"]):
        if not isinstance(count, int) or count < 0:
            raise TypeError("not a number of elements")
    for key in _NAMED:
        for name in _values(description, [key, "*", "name"]):
            if not isinstance(name, str):
                raise TypeError("not a name")


def _check_vertex_counts(description: Json) -> None:
    accessors = description.get("accessors", [])
    for primitive in _values(description, ["meshes", "*", "primitives", "*"]):
        used = [*primitive["attributes"].values(), *_values(primitive, ["targets", "*", "*"])]
        if len({accessors[index]["count"] for index in used}) > 1:
            raise invalid_mesh(
                "The GLB file is damaged: the attributes of a mesh differ in their number."
            )


def _check_tree(description: Json) -> None:
    children = [list(node.get("children", [])) for node in description.get("nodes", [])]
    below = [child for each in children for child in each]
    if len(set(below)) < len(below):
        raise invalid_mesh("The GLB file is damaged: its nodes are not a tree.")
    level = list(set(range(len(children))) - set(below))
    reached = len(level)
    for _ in range(_MAX_DEPTH):
        level = [child for index in level for child in children[index]]
        reached += len(level)
    if level:
        raise invalid_mesh(f"The model's nodes are nested more than {_MAX_DEPTH} levels deep.")
    if reached < len(children):  # the others are in a circle
        raise invalid_mesh("The GLB file is damaged: its nodes are not a tree.")


def _count_parts(description: Json) -> int:
    """The primitives of all mesh nodes."""
    sizes = [len(mesh["primitives"]) for mesh in description.get("meshes", [])]
    return sum(sizes[node["mesh"]] for node in description.get("nodes", []) if "mesh" in node)
