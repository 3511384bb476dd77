"""Points drawn on a surface, in the random order of the reference."""

from dataclasses import dataclass

import numpy as np

from services.inference.geometric.surface import Indices, Points, UnfitInputError
from services.inference.geometry import Float
from services.inference.unirig_geometry.mesh_cleaning import CleanMesh

SKELETON_POINTS = 65_536
SKIN_POINTS = 32_768
_VERTEX_POINTS = 8_192


@dataclass(frozen=True)
class SurfaceSamples:
    """n points: first some of the vertices, then points within faces.

    points: (n, 3) float32. normals: (n, 3) float32, the vertices' own or the faces'.
    vertices: (k,) int64, which vertices the first k points are.
    faces: (n - k,) int64, the faces of the others.
    shares: (n - k, 2) float64, how far each goes from the face's first corner to the other two.
    """

    points: Float
    normals: Float
    vertices: Indices
    faces: Indices
    shares: Points


def sample_surface(mesh: CleanMesh, count: int, seed: int) -> SurfaceSamples:
    """count points on a mesh that has been normalised.

    At most 8192 are vertices. A face is drawn with a probability that grows with the square of its
    area, as the reference does it. The same seed gives the same points. Raises UnfitInputError for
    a surface without area.
    """
    random = np.random.RandomState(seed)
    # The draws that nothing uses keep the stream where the reference has it: two for a random scale
    # and shift that inference leaves out, and an order of the surface points.
    random.rand()
    random.rand()
    vertices = mesh.vertices
    picked = random.permutation(len(vertices))[:_VERTEX_POINTS]
    rest = count - len(picked)
    random.permutation(rest)

    origin = vertices[mesh.faces[:, 0]]
    along = np.stack([vertices[mesh.faces[:, k]] - origin for k in (1, 2)], axis=1)
    # In single precision from end to end, or other faces would be drawn.
    cumulative = np.cumsum((np.cross(along[:, 0], along[:, 1]) ** 2).sum(axis=1))
    if not cumulative[-1] > 0.0:
        raise UnfitInputError("The surface of the model has no area.")
    faces = np.searchsorted(cumulative, random.rand(rest) * cumulative[-1])
    shares = random.rand(rest, 2, 1)
    shares[shares.sum(axis=1)[:, 0] > 1.0] -= 1.0
    shares = np.abs(shares)
    within = origin[faces] + (along[faces] * shares).sum(axis=1)
    return SurfaceSamples(
        points=np.concatenate([vertices[picked], within]).astype(np.float32),
        normals=np.concatenate([mesh.vertex_normals[picked], mesh.face_normals[faces]]),
        vertices=picked,
        faces=faces,
        shares=shares[:, :, 0],
    )


def at_samples(values: Points, faces: Indices, samples: SurfaceSamples) -> Float:
    """Values of vertices (N, J) at the sampled points, (n, J) float32. faces: (F, 3)."""
    a, b, c = (values[faces[samples.faces, k]] for k in range(3))
    within = a + samples.shares[:, :1] * (b - a) + samples.shares[:, 1:] * (c - a)
    everywhere: Points = np.concatenate([values[samples.vertices], within])
    return everywhere.astype(np.float32)
