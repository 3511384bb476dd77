"""Which way the geometric engine takes to be out of a surface."""

import numpy as np
import trimesh

from services.inference.geometric.outward_normals import outward_normals
from services.inference.geometric.solid import voxelise
from services.inference.geometric.surface import Points


def ball() -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=3, radius=1.0)


def normals_of(mesh: trimesh.Trimesh) -> Points:
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces, dtype=np.int64)
    return outward_normals(vertices, faces, voxelise(vertices, faces, 32))


def test_normals_point_out_of_the_solid_whatever_the_winding() -> None:
    mesh = ball()
    faces = np.array(mesh.faces)
    faces[::3] = faces[::3, ::-1]
    for winding in (faces, faces[:, ::-1]):
        turned = trimesh.Trimesh(mesh.vertices, winding, process=False)
        np.testing.assert_allclose(normals_of(turned), mesh.vertices, atol=0.1)


def test_a_sheet_has_no_outside() -> None:
    side = np.linspace(-1, 1, 9)
    x, y = (axis.ravel() for axis in np.meshgrid(side, side))
    corners = np.arange(81).reshape(9, 9)
    squares = [corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:]]
    a, b, c, d = (corner.ravel() for corner in squares)
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    sheet = trimesh.Trimesh(np.stack([x, y, 0 * x], axis=1), faces, process=False)
    assert not normals_of(sheet).any()
