"""A glTF description whose parts do not fit together is refused before anything is made of it."""

import pytest

from services.inference.formats.gltf import Json
from services.inference.formats.gltf_references import check_references
from services.inference.formats.program_output import Refusal
from tests.sample_models import figure_document


def _changed(path: str, value: object) -> Json:
    """The figure's description with the value at a path of keys and indices."""
    description = figure_document().json
    *keys, last = [int(key) if key.isdecimal() else key for key in path.split()]
    holder = description
    for key in keys:
        holder = holder[key]
    holder[last] = value
    return description


def test_a_sound_description_passes() -> None:
    check_references(figure_document().json)
    check_references({"asset": {"version": "2.0"}})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("bufferViews 0 buffer", 1),
        ("accessors 0 bufferView", 99),
        ("accessors 0 sparse", {"indices": {"bufferView": 99}, "values": {"bufferView": 0}}),
        ("images 0 bufferView", 99),
        ("textures 0 source", 1),
        ("textures 0 sampler", 0),
        ("materials 0 pbrMetallicRoughness baseColorTexture index", 7),
        ("materials 0 normalTexture", {"index": 7}),
        ("meshes 0 primitives 0 attributes NORMAL", 99),
        ("meshes 0 primitives 0 targets", [{"POSITION": 99}]),
        ("meshes 0 primitives 0 indices", -1),
        ("meshes 0 primitives 0 material", 1),
        ("skins", [{"joints": [99]}]),
        ("nodes 1 mesh", 1),
        ("nodes 3 camera", 1),
        ("nodes 0 children", [1, 99]),
        ("animations", [{"channels": [{"target": {"node": 99}}], "samplers": []}]),
        ("scenes 0 nodes", [99]),
        ("scenes 0 nodes", ["0"]),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(path: str, value: object) -> None:
    with pytest.raises(Refusal, match="refers to something it does not hold") as caught:
        check_references(_changed(path, value))
    assert caught.value.code == "INVALID_MESH"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("asset", None),
        ("asset", {}),
        ("buffers", 5),
        ("buffers 0", None),
        ("buffers 0 byteLength", -1),
        ("buffers 0 byteLength", "many"),
        ("accessors 0 count", 7.5),
        ("accessors 0 count", -1_000_000_000),
        ("extensions", None),
        ("extensionsUsed", None),
        ("extensionsUsed", "KHR_draco_mesh_compression"),
        ("materials 0", "none"),
        ("meshes 0 primitives", None),
        ("meshes 0 primitives 0 targets", "two"),
        ("nodes", {}),
        ("nodes 1", None),
        ("nodes 1 name", ["a"]),
        ("scenes", "all"),
        ("animations", [None]),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(path: str, value: object) -> None:
    with pytest.raises(Refusal, match="its description cannot be read"):
        check_references(_changed(path, value))


def test_attributes_of_one_mesh_must_be_as_many() -> None:
    with pytest.raises(Refusal, match="differ in their number"):
        check_references(_changed("accessors 2 count", 3))


@pytest.mark.parametrize("children", [[0], [1, 1], [3]])
def test_nodes_that_are_no_tree_are_refused(children: list[int]) -> None:
    description = _changed("nodes 2 children", children)
    description["nodes"][0]["children"] = [1, 2]
    with pytest.raises(Refusal, match="not a tree"):
        check_references(description)


def test_nodes_may_be_nested_but_not_without_end() -> None:
    def chain(length: int) -> Json:
        return {
            "asset": {"version": "2.0"},
            "nodes": [{"children": [index + 1]} for index in range(length)] + [{}],
        }

    check_references(chain(499))
    with pytest.raises(Refusal, match="nested more than 500 levels"):
        check_references(chain(20_000))


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(Refusal, match="200,000 separate parts"):
        check_references(_changed("nodes", [{"mesh": 0}] * 200_000))
