"""The same body as surfaces of very different sizes, to see what a rig costs."""

import fast_simplification
import numpy as np
from trimesh import remesh

from services.inference.geometry import Mesh
from tests.bench.rig_quality.bodies import VARIANTS, build

SIZES = (10_000, 100_000, 1_000_000)
_BODY = "biped_fingers"


def body_of(triangles: int, seed: int) -> Mesh:
    """A biped with fingers of about so many triangles: divided evenly, then reduced."""
    [variant] = [variant for variant in VARIANTS if variant.name == _BODY]
    mesh = build(variant, seed).mesh
    vertices, faces = mesh.vertices, mesh.faces
    while len(faces) < triangles:
        vertices, faces = remesh.subdivide(vertices, faces)
    vertices, faces = fast_simplification.simplify(
        vertices.astype(np.float32), faces.astype(np.int32), target_count=triangles
    )
    return Mesh(
        vertices=vertices.astype(np.float32),
        faces=faces.astype(np.int32),
        parts=np.zeros(len(faces), np.int32),
        part_names=(_BODY,),
    )
