"""From a clean mesh to the points that UniRig's networks see."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from services.inference.geometric.surface import UnfitInputError
from services.inference.unirig_geometry.mesh_cleaning import CleanMesh, clean_mesh
from services.inference.unirig_geometry.model_frame import frame_of, to_y_up, to_z_up
from services.inference.unirig_geometry.surface_samples import at_samples, sample_surface
from services.inference.unirig_network.parity_geometry import skeleton_input_comparisons

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "data_ar_transform.pt"


def ball() -> CleanMesh:
    sphere = trimesh.creation.icosphere(subdivisions=3)
    return clean_mesh(sphere.vertices.astype(np.float32), sphere.faces)


def test_the_samples_match_the_reference() -> None:
    if not GOLDEN.is_file():
        pytest.skip(f"the reference's outputs are not beside the checkout ({GOLDEN})")
    compared = list(skeleton_input_comparisons(GOLDEN))
    assert len(compared) >= 8
    assert [str(one) for one in compared if not one.holds] == []


def test_up_and_forward_are_where_the_model_expects_them() -> None:
    up, forward, left = np.eye(3, dtype=np.float32)[[1, 2, 0]]
    turned = to_z_up(np.stack([up, forward, left]))
    np.testing.assert_array_equal(turned, [[0, 0, 1], [0, -1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(to_y_up(turned.astype(np.float64)), [up, forward, left])


def test_the_longest_side_fills_the_cube_and_the_way_back_is_exact() -> None:
    random = np.random.default_rng(1)
    places = (random.random((100, 3)) * [2, 7, 3] + [100, -5, 30]).astype(np.float32)
    frame = frame_of(places)
    inside = frame.normalised(places)
    np.testing.assert_allclose([inside[:, 1].min(), inside[:, 1].max()], [-1, 1], atol=1e-6)
    assert np.abs(inside).max() <= 1.0 + 1e-6
    np.testing.assert_allclose(frame.world(inside), places, atol=2e-5)


def test_vertices_come_first_and_then_points_of_faces() -> None:
    mesh = ball()
    samples = sample_surface(mesh, 5000, seed=3)
    count = len(mesh.vertices)
    assert samples.points.shape == samples.normals.shape == (5000, 3)
    assert samples.points.dtype == samples.normals.dtype == np.float32
    np.testing.assert_array_equal(np.sort(samples.vertices), np.arange(count))
    np.testing.assert_array_equal(samples.points[:count], mesh.vertices[samples.vertices])
    np.testing.assert_array_equal(samples.normals[count:], mesh.face_normals[samples.faces])
    height = (samples.points[count:] * samples.normals[count:]).sum(axis=1)
    np.testing.assert_allclose(height, 0.99, atol=0.01)


def test_the_same_seed_gives_the_same_points_and_another_seed_others() -> None:
    first, again, other = (sample_surface(ball(), 2000, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.points, again.points)
    assert not np.array_equal(first.points, other.points)


def test_large_faces_are_drawn_by_the_square_of_their_area() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [2, 0, 0], [0, 2, 0]])
    mesh = clean_mesh(vertices.astype(np.float32), np.array([[0, 1, 2], [3, 4, 5]]))
    samples = sample_surface(mesh, 20_000, seed=0)
    assert np.mean(samples.faces == 1) == pytest.approx(16 / 17, abs=0.01)


def test_values_of_vertices_are_interpolated_where_the_points_are() -> None:
    mesh = ball()
    samples = sample_surface(mesh, 3000, seed=5)
    values = at_samples(mesh.vertices.astype(np.float64), mesh.faces, samples)
    np.testing.assert_allclose(values, samples.points, atol=1e-6)


def test_a_surface_without_area_is_refused() -> None:
    mesh = replace(ball(), vertices=np.zeros_like(ball().vertices))
    with pytest.raises(UnfitInputError, match="no area"):
        sample_surface(mesh, 100, seed=0)
