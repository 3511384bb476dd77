"""The surface that UniRig samples: vertices united, faces reduced, normals made."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from services.inference.unirig_geometry.mesh_cleaning import clean_mesh, distinct_rows
from services.inference.unirig_network.parity_geometry import cleaning_comparisons

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "save_raw_data.pt"


def soup(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    """A mesh whose faces share no vertex."""
    return mesh.triangles.reshape(-1, 3).astype(np.float32), np.arange(len(mesh.faces) * 3).reshape(
        -1, 3
    )


def test_the_clean_up_matches_the_reference() -> None:
    if not GOLDEN.is_file():
        pytest.skip(f"the reference's outputs are not beside the checkout ({GOLDEN})")
    compared = list(cleaning_comparisons(GOLDEN))
    assert len(compared) >= 8
    assert [str(one) for one in compared if not one.holds] == []


def test_vertices_of_one_place_become_one_in_the_order_of_the_file() -> None:
    ball = trimesh.creation.icosphere(subdivisions=2)
    clean = clean_mesh(*soup(ball))
    assert len(clean.vertices) == len(ball.vertices)
    np.testing.assert_array_equal(clean.faces[0], [0, 1, 2])
    np.testing.assert_allclose(clean.vertices[clean.faces], ball.triangles, atol=1e-7)


def test_normals_are_those_of_the_shape() -> None:
    ball = trimesh.creation.icosphere(subdivisions=2)
    clean = clean_mesh(*soup(ball))
    np.testing.assert_allclose(clean.vertex_normals, clean.vertices, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(clean.face_normals, axis=1), 1.0, atol=1e-6)


def test_a_face_without_area_has_no_normal() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]], np.float32)
    clean = clean_mesh(vertices, np.array([[0, 1, 2], [0, 1, 3]]))
    np.testing.assert_array_equal(clean.face_normals, [[0, 0, 0], [0, 0, 1]])
    assert np.isfinite(clean.vertex_normals).all()


def test_vertices_without_a_face_and_faces_that_are_nowhere_are_dropped() -> None:
    vertices = np.array(
        [[9, 9, 9], [0, 0, 0], [1, 0, 0], [0, 1, 0], [np.nan, 0, 0]], dtype=np.float32
    )
    clean = clean_mesh(vertices, np.array([[1, 2, 3], [1, 2, 4]]))
    np.testing.assert_array_equal(clean.vertices, vertices[1:4])
    np.testing.assert_array_equal(clean.faces, [[0, 1, 2]])


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e6])
def test_more_faces_than_wanted_are_reduced_whatever_the_size(size: float) -> None:
    ball = trimesh.creation.icosphere(subdivisions=5, radius=size)
    clean = clean_mesh(*soup(ball), max_faces=2000)
    assert 1500 < len(clean.faces) <= 2000
    distances = np.linalg.norm(clean.vertices, axis=1) / size
    assert np.abs(distances - 1.0).max() < 0.05


def test_loose_triangles_are_reduced_too() -> None:
    random = np.random.default_rng(0)
    centres = random.random((20_000, 1, 3))
    corners = centres + 0.02 * random.standard_normal((20_000, 3, 3))
    faces = np.arange(60_000).reshape(-1, 3)
    clean = clean_mesh(corners.reshape(-1, 3).astype(np.float32), faces, max_faces=4000)
    assert 0 < len(clean.faces) <= 5000


def test_distinct_rows_are_counted_in_the_order_of_the_first() -> None:
    rows = np.array([[2, 0, 0], [1, 0, 0], [2, 0, 0], [0, 5, 0], [1, 0, 0]])
    first, numbers = distinct_rows(rows)
    np.testing.assert_array_equal(first, [0, 1, 3])
    np.testing.assert_array_equal(numbers, [0, 1, 0, 2, 1])
