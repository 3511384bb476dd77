"""GLB: the rest pose that is read, and a rig that changes nothing else."""

import copy
import json

import numpy as np
import pytest

from services.inference.formats.glb import read_glb
from services.inference.formats.gltf import (
    Document,
    accessor_array,
    add_accessor,
    node_tree,
    read_glb_document,
    view_bytes,
    write_glb_document,
)
from services.inference.formats.program_output import Refusal
from services.inference.formats.rigged_glb import attach_rig, glb_of_mesh
from services.inference.geometry import Mesh, Skeleton, SkinWeights
from tests.sample_models import (
    BOX_CORNERS,
    BOX_TRIANGLES,
    box_mesh,
    chain_skeleton,
    dense,
    figure_document,
    human_skeleton,
    smooth_weights,
)

LIMIT = 100_000


def rigged(document: Document, tmp_path, joints: int = 4):
    """The document with a chain as its rig, written and opened again, and what went in."""
    mesh = read_glb(document, LIMIT).mesh
    skeleton = chain_skeleton(mesh, joints)
    skin = smooth_weights(mesh, skeleton)
    attach_rig(document, mesh, skeleton, skin, LIMIT)
    write_glb_document(tmp_path / "rigged.glb", document)
    return read_glb_document(tmp_path / "rigged.glb"), mesh, skeleton, skin


def posed(document: Document, turned: str, angle: float) -> dict[str, np.ndarray]:
    """Skinned world positions by mesh node name, with the joint `turned` rotated about z."""
    nodes = document.json["nodes"]
    nodes = [
        dict(n, rotation=[0, 0, np.sin(angle / 2), np.cos(angle / 2)])
        if n.get("name") == turned
        else n
        for n in nodes
    ]
    tree = node_tree(Document({**document.json, "nodes": nodes}, document.buffers))
    positions = {}
    for node in nodes:
        if "skin" not in node:
            continue
        skin = document.json["skins"][node["skin"]]
        inverse = accessor_array(document, skin["inverseBindMatrices"]).reshape(-1, 4, 4)
        matrices = [tree.worlds[j] @ m.T for j, m in zip(skin["joints"], inverse, strict=True)]
        attributes = document.json["meshes"][node["mesh"]]["primitives"][0]["attributes"]
        vertices = accessor_array(document, attributes["POSITION"])
        joints = accessor_array(document, attributes["JOINTS_0"])
        weights = accessor_array(document, attributes["WEIGHTS_0"])
        ones = np.c_[vertices, np.ones(len(vertices))]
        moved = np.einsum("nk,nkij,nj->ni", weights, np.array(matrices)[joints], ones)
        positions[node["name"]] = moved[:, :3]
    return positions


def test_node_transforms_instances_and_mirrors_are_applied():
    mesh = read_glb(figure_document(), LIMIT).mesh
    assert mesh.part_names == ("first", "second")
    second = BOX_CORNERS * [-2, 2, 2] + [4, 2, 0]
    np.testing.assert_allclose(mesh.vertices[8:], second, atol=1e-6)
    turn = np.array([[0.28, -0.96, 0], [0.96, 0.28, 0], [0, 0, 1]])
    np.testing.assert_allclose(mesh.vertices[:8], 2 * BOX_CORNERS @ turn.T + [0, 2, 0], atol=1e-6)


def test_a_rig_leaves_geometry_and_looks_as_they_were(tmp_path):
    before = figure_document()
    original = copy.deepcopy(before.json)
    corners = {
        n: accessor_array(before, i).copy()
        for n, i in original["meshes"][0]["primitives"][0]["attributes"].items()
    }
    after, *_ = rigged(before, tmp_path)
    for key in ("materials", "textures", "cameras"):
        assert after.json[key] == original[key]
    for mesh in after.json["meshes"]:
        assert mesh["weights"] == [0.0]
        primitive = mesh["primitives"][0]
        assert len(primitive["targets"]) == 1
        for name, values in corners.items():
            np.testing.assert_array_equal(
                accessor_array(after, primitive["attributes"][name]), values
            )


@pytest.mark.parametrize("name", ["figure", "fox.glb", "statue.glb", "small.vrm"])
def test_what_the_rig_does_not_touch_stays_byte_for_byte(tmp_path, request, name):
    if name == "figure":
        before = figure_document()
    else:
        before = read_glb_document(request.getfixturevalue("models") / name)
    original = copy.deepcopy(before)
    after, *_ = rigged(before, tmp_path)
    for key in ("materials", "textures", "samplers", "cameras"):
        assert after.json.get(key) == original.json.get(key), key
    assert looks(after) == looks(original)
    assert pictures(after) == pictures(original)


def looks(document: Document) -> dict[str, list]:
    """By the name of each mesh: what its primitives are drawn with, but for the rig."""
    found = {}
    for mesh in document.json["meshes"]:
        primitives = []
        for primitive in mesh["primitives"]:
            data = {key: value for key, value in primitive.items() if key in ("material", "mode")}
            data["extensions"] = primitive.get("extensions")
            data["indices"] = stored(document, primitive.get("indices"))
            for number, named in enumerate(
                [primitive["attributes"], *primitive.get("targets", [])]
            ):
                for attribute, accessor in named.items():
                    if not attribute.startswith(("JOINTS", "WEIGHTS")):
                        data[number, attribute] = stored(document, accessor)
            primitives.append(data)
        found[mesh.get("name")] = [mesh.get("weights"), mesh.get("extras"), primitives]
    return found


def stored(document: Document, index: int | None) -> tuple | None:
    """An accessor without where it lies, and its values."""
    if index is None:
        return None
    accessor = document.json["accessors"][index]
    kept = ("componentType", "normalized", "count", "type", "min", "max")
    described = {key: accessor[key] for key in kept if key in accessor}
    return described, accessor_array(document, index).tobytes()


def pictures(document: Document) -> list[tuple[str | None, bytes]]:
    images = document.json.get("images", [])
    return [(i.get("mimeType"), bytes(view_bytes(document, i["bufferView"]))) for i in images]


def test_the_rest_pose_of_a_rigged_file_is_that_of_the_original(tmp_path):
    document, mesh, skeleton, _ = rigged(figure_document(), tmp_path)
    still = posed(document, "none", 0.0)
    np.testing.assert_allclose(still["first_mesh"], mesh.vertices[:8], atol=1e-5)
    np.testing.assert_allclose(still["second"], mesh.vertices[8:], atol=1e-5)
    back = read_glb(document, LIMIT)
    assert back.skeleton.names == skeleton.names
    np.testing.assert_allclose(back.skeleton.heads, skeleton.heads, atol=1e-6)
    np.testing.assert_allclose(back.skeleton.tails, skeleton.tails, atol=1e-6)


def test_each_instance_of_a_mesh_gets_weights_of_its_own(tmp_path):
    document, _, _, skin = rigged(figure_document(), tmp_path)
    assert len(document.json["meshes"]) == 2
    back = read_glb(document, LIMIT)
    np.testing.assert_allclose(dense(back.skin, 4), dense(skin, 4), atol=1e-6)


def test_the_mesh_follows_a_joint_that_turns(tmp_path):
    document, mesh, skeleton, skin = rigged(figure_document(), tmp_path)
    joint, angle = 1, 0.7
    turned = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    share = dense(skin, 4)[:, joint:].sum(axis=1, keepdims=True)
    pivot = skeleton.heads[joint]
    expected = (1 - share) * mesh.vertices + share * ((mesh.vertices - pivot) @ turned.T + pivot)
    seen = posed(document, skeleton.names[joint], angle)
    np.testing.assert_allclose(np.vstack([seen["first_mesh"], seen["second"]]), expected, atol=1e-5)


def test_skinned_nodes_are_roots_and_what_hung_on_them_stays_in_place(tmp_path):
    before = figure_document()
    eye = node_tree(before).worlds[3]
    document, *_ = rigged(before, tmp_path)
    roots = document.json["scenes"][0]["nodes"]
    skinned = [i for i, node in enumerate(document.json["nodes"]) if "skin" in node]
    assert set(skinned) <= set(roots)
    assert all(set(document.json["nodes"][i]) <= {"name", "mesh", "skin"} for i in skinned)
    tree = node_tree(document)
    camera = next(i for i, node in enumerate(document.json["nodes"]) if "camera" in node)
    np.testing.assert_allclose(tree.worlds[camera], eye, atol=1e-9)


def test_a_mirrored_part_keeps_its_outside_outside(tmp_path):
    document, *_ = rigged(figure_document(), tmp_path)
    mirrored = next(n for n in document.json["nodes"] if n.get("name") == "second")
    primitive = document.json["meshes"][mirrored["mesh"]]["primitives"][0]
    turned = accessor_array(document, primitive["indices"]).reshape(-1, 3)
    np.testing.assert_array_equal(turned, BOX_TRIANGLES[:, ::-1])


def test_a_new_rig_replaces_an_old_one_and_the_animations_that_drove_it(tmp_path):
    document, *_ = rigged(figure_document(), tmp_path, joints=3)
    old_joint = document.json["skins"][0]["joints"][1]
    camera = next(i for i, node in enumerate(document.json["nodes"]) if "camera" in node)
    document.json["nodes"][old_joint]["children"].append(len(document.json["nodes"]))
    document.json["nodes"].append({"name": "sword", "camera": 0, "translation": [1, 0, 0]})
    mesh_node = next(
        i
        for i, n in enumerate(document.json["nodes"])
        if n.get("name") == "first_mesh" and "skin" in n
    )
    times = add_accessor(document, np.array([0, 1], np.float32), bounds=True)
    turn = add_accessor(document, np.array([[0, 0, 0, 1]] * 2, np.float32))
    morph = add_accessor(document, np.array([0, 1], np.float32))
    document.json["animations"] = [
        {
            "samplers": [{"input": times, "output": turn}, {"input": times, "output": morph}],
            "channels": [
                {"sampler": 0, "target": {"node": old_joint, "path": "rotation"}},
                {"sampler": 1, "target": {"node": mesh_node, "path": "weights"}},
                {"sampler": 0, "target": {"node": camera, "path": "rotation"}},
            ],
        },
        {
            "samplers": [{"input": times, "output": turn}],
            "channels": [{"sampler": 0, "target": {"node": old_joint, "path": "rotation"}}],
        },
    ]
    sword = node_tree(document).worlds[len(document.json["nodes"]) - 1]
    old_names = {document.json["nodes"][j]["name"] for j in document.json["skins"][0]["joints"]}

    mesh = read_glb(document, LIMIT).mesh
    skeleton = human_skeleton()
    attach_rig(document, mesh, skeleton, smooth_weights(mesh, skeleton), LIMIT)
    nodes = document.json["nodes"]
    names = [node.get("name") for node in nodes]
    assert not old_names & set(names)
    assert names.count("Armature") == 1
    assert {len(skin["joints"]) for skin in document.json["skins"]} == {len(skeleton.names)}
    (animation,) = document.json["animations"]
    targets = [
        (nodes[c["target"]["node"]]["name"], c["target"]["path"]) for c in animation["channels"]
    ]
    assert targets == [("first_mesh", "weights"), ("eye", "rotation")]
    tree = node_tree(document)
    np.testing.assert_allclose(tree.worlds[names.index("sword")], sword, atol=1e-6)
    assert read_glb(document, LIMIT).skeleton.names == skeleton.names


def test_rigging_again_and_again_does_not_grow_the_file(tmp_path):
    sizes = []
    for _ in range(3):
        path = tmp_path / "rigged.glb"
        document = read_glb_document(path) if sizes else figure_document()
        rigged(document, tmp_path)
        sizes.append(path.stat().st_size)
    assert sizes[1] == sizes[2]


def test_a_pose_in_the_file_does_not_change_the_rest_pose(tmp_path):
    document, mesh, skeleton, _ = rigged(glb_of_mesh(box_mesh()), tmp_path)
    bent = next(n for n in document.json["nodes"] if n.get("name") == skeleton.names[1])
    bent["rotation"] = [0, 0, 0.6, 0.8]
    back = read_glb(document, LIMIT)
    np.testing.assert_allclose(back.mesh.vertices, mesh.vertices, atol=1e-6)
    np.testing.assert_allclose(back.skeleton.heads, skeleton.heads, atol=1e-6)


def test_a_skeleton_without_weights_reads_back_as_a_skeleton_without_weights(tmp_path):
    document = glb_of_mesh(box_mesh())
    attach_rig(document, box_mesh(), human_skeleton(), None, LIMIT)
    write_glb_document(tmp_path / "skeleton.glb", document)
    back = read_glb(read_glb_document(tmp_path / "skeleton.glb"), LIMIT)
    assert back.skeleton.names == human_skeleton().names
    assert back.skin is None


def test_weights_reach_other_vertices_by_place(tmp_path):
    mesh = box_mesh()
    skeleton = chain_skeleton(mesh)
    skin = smooth_weights(mesh, skeleton)
    shuffled = np.random.default_rng(3).permutation(len(mesh.vertices))
    place = np.argsort(shuffled).astype(np.int32)
    other = Mesh(mesh.vertices[shuffled], place[mesh.faces], mesh.parts, mesh.part_names)
    document = glb_of_mesh(other)
    attach_rig(document, mesh, skeleton, skin, LIMIT)
    back = read_glb(document, LIMIT)
    unique = {tuple(v): w for v, w in zip(mesh.vertices.tolist(), dense(skin, 4), strict=True)}
    for vertex, weights in zip(back.mesh.vertices.tolist(), dense(back.skin, 4), strict=True):
        if vertex[1] != 1.0:  # where the boxes touch, two vertices share a place
            np.testing.assert_allclose(weights, unique[tuple(vertex)], atol=1e-6)


def test_parts_at_the_same_place_keep_weights_of_their_own(tmp_path):
    mesh = box_mesh()
    skeleton = chain_skeleton(mesh)
    joints = np.repeat([[0], [3]], 8, axis=0).astype(np.int32)
    skin = SkinWeights(joints, np.ones((16, 1), np.float32))
    document = glb_of_mesh(mesh)
    attach_rig(document, mesh, skeleton, skin, LIMIT)
    np.testing.assert_allclose(dense(read_glb(document, LIMIT).skin, 4), dense(skin, 4))


def test_several_roots_are_joined_under_one_with_a_note(tmp_path):
    document, *_ = rigged(glb_of_mesh(box_mesh()), tmp_path)
    nodes = document.json["nodes"]
    root, second = document.json["skins"][0]["joints"][:2]
    nodes[root]["children"].remove(second)
    document.json["scenes"][0]["nodes"].append(second)
    model = read_glb(document, LIMIT)
    assert model.skeleton.names[0] == "root"
    assert model.skeleton.parents.tolist() == [-1, 0, 0, 2, 3]
    assert "2 roots" in " ".join(model.notes)
    np.testing.assert_allclose(model.skin.weights.sum(axis=1), 1, atol=1e-6)


def test_at_most_four_influences_are_kept_and_sum_to_one(tmp_path):
    mesh = box_mesh()
    skeleton = human_skeleton()
    joints = np.tile(np.arange(7, dtype=np.int32), (16, 1))
    weights = np.tile(np.float32([1, 7, 2, 6, 3, 5, 4]) / np.float32(28), (16, 1))
    document = glb_of_mesh(mesh)
    attach_rig(document, mesh, skeleton, SkinWeights(joints, weights), LIMIT)
    skin = read_glb(document, LIMIT).skin
    assert skin.joints[0].tolist() == [1, 3, 5, 6]
    np.testing.assert_allclose(skin.weights[0], np.float32([7, 6, 5, 4]) / 22, atol=1e-6)


def test_images_outside_the_file_do_not_get_into_the_result(tmp_path):
    document = figure_document()
    document.json["images"] = [{"uri": "/etc/hostname"}]
    result, *_ = rigged(document, tmp_path)
    assert "hostname" not in json.dumps(result.json)
    assert result.json["images"][0]["mimeType"] == "image/png"


def corrupted(change):
    document = figure_document()
    change(document.json)
    return document


def _set(path, value):
    def change(description):
        *keys, last = path
        for key in keys:
            description = description[key]
        description[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set(("accessors", 0, "count"), 9), "outside its buffer view"),
        (_set(("accessors", 0, "count"), 10**12), "impossible size|triangles"),
        (_set(("accessors", 0, "byteOffset"), -4), "outside its buffer view"),
        (_set(("accessors", 0, "bufferView"), 99), "does not hold"),
        (_set(("accessors", 0, "componentType"), 1), "damaged"),
        (_set(("bufferViews", 0, "byteLength"), 10**9), "outside its buffer"),
        (_set(("accessors", 4, "count"), 3_000_000), "triangles"),
        (_set(("meshes", 0, "primitives"), None), "damaged"),
        (_set(("nodes", 3, "children"), [0]), "not a tree"),
        (_set(("nodes", 0, "scale"), [0, 0, 0]), "no size"),
        (_set(("nodes", 0, "translation"), [float("nan"), 0, 0]), "not finite"),
        (_set(("nodes", 1, "mesh"), 7), "does not hold"),
        (_set(("scenes", 0, "nodes"), []), "no faces"),
        (_set(("extensionsUsed",), ["EXT_meshopt_compression"]), "EXT_meshopt_compression"),
    ],
)
def test_a_damaged_glb_is_refused_in_words(change, reason):
    with pytest.raises(Refusal, match=reason) as caught:
        read_glb(corrupted(change), LIMIT)
    assert caught.value.code == "INVALID_MESH"


def test_an_old_skeleton_is_read_with_custom_names(tmp_path):
    document, _, skeleton, _ = rigged(glb_of_mesh(box_mesh()), tmp_path)
    assert isinstance(skeleton, Skeleton)
    assert read_glb(document, LIMIT).skeleton.names == (
        "Root Bone",
        "Größe %20",
        "mixamorig:Spine",
        "b_3",
    )
