"""How the geometric engine looks at surfaces: without holes, and without end for no mesh."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial import KDTree

from services.inference.checks import check_skeleton
from services.inference.geometric.engine import predict_skeleton
from services.inference.geometric.solid import voxelise
from services.inference.geometric.surface import Indices, Points, surface_samples
from services.inference.geometry import Mesh

SPACING = 0.02


def fan(count: int) -> tuple[Points, Indices]:
    """One polygon of count corners as triangles that all cross the whole model."""
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    vertices = np.stack([np.cos(turn), np.sin(turn), 0.1 * np.sin(5 * turn)], axis=1)
    rim = np.arange(1, count - 1)
    return vertices, np.stack([np.zeros_like(rim), rim, rim + 1], axis=1)


def large_triangles(count: int) -> tuple[Points, Indices]:
    """Loose triangles, each about as large as the model."""
    vertices = np.random.default_rng(1).uniform(-1, 1, (3 * count, 3))
    return vertices, np.arange(3 * count).reshape(-1, 3)


def samples_of(vertices: Points, faces: Indices) -> Points:
    return np.concatenate(list(surface_samples(vertices, faces, SPACING)))


@pytest.mark.parametrize(
    "triangle",
    [
        [[-1, -1, 0], [1, -1, 0], [0, 1, 0.3]],
        [[-1, 0, 0], [1, 0.01, 0], [0.2, 0.05, 0]],
        [[1, 0.01, 0], [0.9, 0.05, 0.4], [-1, 0, 0]],
        [[0, 0, 0], [0.03, 0, 0], [0, 0.03, 0]],
    ],
)
def test_samples_leave_no_hole_in_a_triangle(triangle: list[list[float]]) -> None:
    corners = np.array(triangle, dtype=float)
    samples = samples_of(corners, np.array([[0, 1, 2]]))
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], 5000)
    distances, _ = KDTree(samples).query(shares @ corners)
    assert distances.max() <= SPACING
    # All of them lie in the triangle.
    assert (KDTree(shares @ corners).query(samples)[0] <= 4 * SPACING).all()


@pytest.mark.parametrize("build", [fan, large_triangles])
def test_a_surface_of_triangles_that_all_cross_the_model_takes_bounded_samples(
    build: Callable[[int], tuple[Points, Indices]],
) -> None:
    vertices, faces = build(50_000)
    assert sum(len(chunk) for chunk in surface_samples(vertices, faces, SPACING)) < 40_000_000


@pytest.mark.parametrize("build", [fan, large_triangles])
def test_triangles_that_all_cross_the_model_are_rigged(
    build: Callable[[int], tuple[Points, Indices]],
) -> None:
    # Without limits such a model of 80 kB held a worker for minutes.
    vertices, faces = build(8_000)
    mesh = Mesh(
        vertices.astype(np.float32), faces.astype(np.int32), np.zeros(len(faces), np.int32), ("a",)
    )
    check_skeleton(mesh, predict_skeleton(mesh, lambda *_: None))


def test_an_open_box_is_solid_by_what_winds_around_it() -> None:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4]])
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    assert voxelise(corners, faces, 24).holds(np.zeros((1, 3))).all()
