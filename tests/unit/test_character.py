from pathlib import Path

import numpy as np
import pytest
import trimesh

from services.cli.character import Character, build_character, write_character
from services.cli.raster import rasterise


@pytest.fixture(scope="module")
def character() -> Character:
    return build_character()


def test_it_stands_on_the_ground_and_is_as_tall_as_a_person(character: Character) -> None:
    vertices = np.concatenate([part.vertices for part in character.parts])
    low, high = vertices.min(0), vertices.max(0)
    assert abs(low[1]) < 0.005
    assert 1.65 < high[1] < 1.75
    assert abs(low[0] + high[0]) < 0.005


def test_its_toes_and_face_point_to_positive_z(character: Character) -> None:
    body, backpack, face = character.parts
    shoes = body.vertices[body.vertices[:, 1] < 0.05]
    assert shoes[:, 2].max() > 1.5 * -shoes[:, 2].min()
    assert face.vertices[:, 2].min() > 0.1
    assert backpack.vertices[:, 2].max() < 0


def test_it_has_several_parts_of_a_moderate_size_together(character: Character) -> None:
    assert [part.name for part in character.parts] == ["Body", "Backpack", "Face"]
    assert 15_000 < sum(len(part.faces) for part in character.parts) < 21_000


def test_every_part_is_closed_and_wound_outwards(character: Character) -> None:
    for part in character.parts:
        mesh = trimesh.Trimesh(part.vertices, part.faces, process=False)
        mesh.merge_vertices(merge_tex=True, merge_norm=True)
        assert mesh.is_watertight, part.name
        assert mesh.volume > 0, part.name
        agree = (mesh.face_normals * part.normals[part.faces[:, 0]]).sum(1)
        assert (agree > 0).mean() > 0.99, part.name


def test_the_texture_paints_the_shoes_red_and_the_trousers_blue(character: Character) -> None:
    body = character.parts[0]
    size = len(character.texture)

    def colour_near(spot: tuple[float, float, float]) -> np.ndarray:
        vertex = np.linalg.norm(body.vertices - np.array(spot), axis=1).argmin()
        u, v = body.uvs[vertex]
        return character.texture[int((1 - v) * size), int(u * size)].astype(int)

    red, green, blue = colour_near((0.12, 0.09, 0.17))
    assert red > 1.5 * green
    assert red > 1.5 * blue
    red, _, blue = colour_near((0.1, 0.5, 0.1))
    assert blue > 1.3 * red


def test_no_two_triangles_share_a_place_in_the_texture(character: Character) -> None:
    size = 1024
    covered = np.zeros((size, size), bool)
    area = 0.0
    for part in character.parts:
        a, b, c = (part.uvs[part.faces[:, corner]] * size for corner in range(3))
        (x, y), (z, w) = (b - a).T, (c - a).T
        area += float(np.abs(x * w - y * z).sum()) / 2
        flat = np.column_stack([part.uvs * size, np.zeros(len(part.uvs))]).astype(np.float32)
        covered |= rasterise(flat, part.faces, size, size).faces >= 0
    assert covered.sum() > 0.99 * area


@pytest.fixture(scope="module")
def glb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("character") / "bear.glb"
    write_character(path)
    return path


def test_a_glb_is_the_same_to_the_byte_each_time(glb: Path, tmp_path: Path) -> None:
    write_character(tmp_path / "again.glb")
    assert (tmp_path / "again.glb").read_bytes() == glb.read_bytes()


def test_a_glb_carries_the_parts_their_uvs_and_the_texture(character: Character, glb: Path) -> None:
    scene = trimesh.load_scene(glb)
    assert set(scene.geometry) == {"Body", "Backpack", "Face"}
    for part in character.parts:
        mesh = scene.geometry[part.name]
        np.testing.assert_allclose(mesh.vertices, part.vertices, atol=1e-6)
        np.testing.assert_allclose(mesh.visual.uv, part.uvs, atol=1e-6)
        np.testing.assert_array_equal(
            np.asarray(mesh.visual.material.baseColorTexture), character.texture
        )


def test_an_obj_names_its_material_file_and_picture(character: Character, tmp_path: Path) -> None:
    write_character(tmp_path / "bear.obj")
    lines = (tmp_path / "bear.obj").read_text().splitlines()
    assert "mtllib bear.mtl" in lines
    assert [line for line in lines if line.startswith("o ")] == ["o Body", "o Backpack", "o Face"]
    faces = sum(line.startswith("f ") for line in lines)
    assert faces == sum(len(part.faces) for part in character.parts)
    material = (tmp_path / "bear.mtl").read_text()
    (picture,) = tmp_path.glob("*.png")
    assert f"map_Kd {picture.name}" in material


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.fbx"):
        write_character(tmp_path / "bear.fbx")
