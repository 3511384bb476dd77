"""OBJ: what is read of a model, and a skeleton that comes back as it went."""

import numpy as np
import pytest
import trimesh

from services.inference.formats.obj import (
    add_skeleton_to_obj,
    parse_obj,
    read_obj,
    write_obj,
)
from services.inference.formats.program_output import Refusal
from services.inference.geometry import Skeleton
from tests.sample_models import box_mesh, box_obj, chain_skeleton, human_skeleton

LIMIT = 1000


def assert_same_skeleton(one: Skeleton, other: Skeleton) -> None:
    assert one.names == other.names
    for array in ("parents", "heads", "tails"):
        np.testing.assert_array_equal(getattr(one, array), getattr(other, array))


def test_polygons_uvs_and_indices_from_the_end_become_the_triangles_of_two_parts():
    mesh = parse_obj(box_obj(), LIMIT).mesh
    assert mesh.part_names == ("lower", "upper")
    assert mesh.faces.shape == (24, 3)
    assert (np.bincount(mesh.parts) == 12).all()
    np.testing.assert_array_equal(mesh.vertices, box_mesh().vertices)
    for part in (0, 1):
        whole = trimesh.Trimesh(mesh.vertices, mesh.faces[mesh.parts == part])
        assert abs(whole.volume) == pytest.approx(1.0)


def test_groups_name_the_parts_where_there_are_no_objects():
    data = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\ng left arm\nf 1 2 3\ng right arm\nf 1 2 4\n"
    assert parse_obj(data, LIMIT).mesh.part_names == ("left arm", "right arm")


def test_vertices_that_no_face_uses_are_left_out():
    data = b"v 9e9 0 0\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 2 3 4 5\n"
    model = parse_obj(data, LIMIT)
    assert model.mesh.extent == 1.0
    assert model.vertices.tolist() == [-1, 0, 1, 2, 3]


def test_colours_tabs_continued_lines_and_windows_line_ends_are_understood():
    data = (
        b"v\t0 0 0 1 0 0\r\nv 1 0 0 1 0 0\r\n v 0 1 0 1 0 0\r\nv 0 0 1\r\n"
        b"f 1//1 2//1 \\\r\n 3//1\r\nf 2 3 4\r\n"
    )
    mesh = parse_obj(data, LIMIT).mesh
    assert mesh.faces.tolist() == [[0, 1, 2], [1, 2, 3]]
    assert mesh.vertices[3].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no vertices"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no faces"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "four different"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 5\n", "does not have"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 0\n", "does not have"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 -5\n", "does not have"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 99999999999999999999999\n", "damaged"),
        (b"v 0 0 0\nv nan 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3 4\n", "not finite"),
        (b"v 0 0 0\nv inf 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3 4\n", "not finite"),
        (b"v 0 0 0\nv 1e60 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3 4\n", "not finite"),
        (b"v 0 0 0\nv x 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3 4\n", "three numbers"),
        (b"v 0 0 0\nv 1 0\nv 0 1 0\nv 0 0 1\nf 1 2 3 4\n", "three numbers"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf a b c\n", "vertex numbers"),
        (b"v 1 1 1\nv 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3 4\n", "no size"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 1 2\nf 3 3 3\n", "no faces with an area"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2\n", "no faces"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n" + b"f 1 2 3 4\n" * 501, "1,002 triangles"),
        (b"v 0 0 0\nv 1e12 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3 4\n", "too large"),
    ],
)
def test_a_model_that_cannot_be_rigged_is_refused_in_words(data, reason):
    with pytest.raises(Refusal, match=reason) as caught:
        parse_obj(data, LIMIT)
    assert caught.value.code == "INVALID_MESH"


@pytest.mark.parametrize("skeleton", [chain_skeleton(box_mesh()), human_skeleton()])
def test_a_skeleton_beside_a_mesh_reads_back_without_loss(tmp_path, skeleton):
    path = tmp_path / "boxes_skeleton.obj"
    write_obj(path, box_mesh(), skeleton)
    back = read_obj(path, LIMIT)
    assert_same_skeleton(back.skeleton, skeleton)
    np.testing.assert_array_equal(back.mesh.vertices, box_mesh().vertices)
    np.testing.assert_array_equal(back.mesh.faces, box_mesh().faces)
    assert back.mesh.part_names == ("lower", "upper")


def test_every_float_survives_the_text(tmp_path):
    rng = np.random.default_rng(7)
    heads = rng.normal(scale=[1e-6, 1.0, 1e6], size=(5, 3)).astype(np.float32)
    tails = rng.normal(size=(5, 3)).astype(np.float32)
    parents = np.array([-1, 0, 0, 1, 1], np.int32)
    skeleton = Skeleton(("a", "b", "c", "d", "e"), parents, heads, tails)
    write_obj(tmp_path / "model.obj", box_mesh(), skeleton)
    assert_same_skeleton(read_obj(tmp_path / "model.obj", LIMIT).skeleton, skeleton)


def test_a_users_own_obj_keeps_every_byte_before_the_skeleton(tmp_path):
    path = tmp_path / "model_skeleton.obj"
    skeleton = human_skeleton()
    add_skeleton_to_obj(box_obj(), path, skeleton)
    assert path.read_bytes().startswith(box_obj())
    assert_same_skeleton(read_obj(path, LIMIT).skeleton, skeleton)


def test_a_second_skeleton_replaces_the_first(tmp_path):
    path = tmp_path / "model_skeleton.obj"
    add_skeleton_to_obj(box_obj(), path, human_skeleton())
    chain = chain_skeleton(box_mesh())
    add_skeleton_to_obj(path.read_bytes(), path, chain)
    assert path.read_bytes().count(b"\no skeleton\n") == 1
    assert_same_skeleton(read_obj(path, LIMIT).skeleton, chain)


def test_other_readers_see_the_mesh_of_a_skeleton_file(tmp_path):
    path = tmp_path / "model.obj"
    write_obj(path, box_mesh(), human_skeleton())
    assert len(trimesh.load(path, force="mesh").faces) == 24


def test_a_part_called_skeleton_is_no_skeleton():
    data = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\no skeleton\ng bone\nf 1 2 3 4\n"
    model = parse_obj(data, LIMIT)
    assert model.skeleton is None
    assert model.mesh.part_names == ("skeleton",)


@pytest.mark.parametrize(
    "elements", [b"g a\np 5\ng b\nl 7 6\n", b"l 5 6\n", b"g a\np 1\n", b"g a\n"]
)
def test_a_skeleton_that_an_editor_rewrote_is_none(elements):
    data = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3 4\no skeleton\nv 0 0 0\nv 0 1 0\n"
    model = parse_obj(data + elements, LIMIT)
    assert model.skeleton is None
    assert "rewrote" in model.notes[0]
