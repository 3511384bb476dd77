"""What surrounds the networks against outputs of the reference implementation.

Files are save_raw_data*.pt (clean-up), data_ar_transform*.pt and data_skin_transform*.pt (from a
clean mesh to the networks' inputs) and reskin*.pt (from sampled points to vertices). Tensors, lists
and dicts only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from services.inference.unirig_geometry.mesh_cleaning import CleanMesh, clean_mesh
from services.inference.unirig_geometry.model_frame import frame_of
from services.inference.unirig_geometry.surface_samples import (
    SKELETON_POINTS,
    SKIN_POINTS,
    SurfaceSamples,
    at_samples,
    sample_surface,
)
from services.inference.unirig_geometry.vertex_weights import vertex_weights
from services.inference.unirig_geometry.voxel_fill import (
    filled_between_crossed,
    filled_between_depths,
    voxel_centres,
)
from services.inference.unirig_geometry.voxel_prior import (
    GRID,
    geodesic_distances,
    in_own_cube,
    nearness,
)
from services.inference.unirig_network.comparison import Comparison

_Case = Mapping[str, Any]
_Array = npt.NDArray[Any]

_SEED = 12345
_BOUND = 1e-6
# A renderer rounds otherwise than we do: of the voxels inside, this share may differ.
_VOXELS = 1e-3


def cleaning_comparisons(path: Path) -> Iterator[Comparison]:
    """Clean-up to so many faces: corners exactly, the rest by absolute error."""
    golden = torch.load(path, weights_only=True)
    for count, out in golden["out"].items():
        mesh = clean_mesh(_array(golden["soup_vertices"]), _array(golden["soup_faces"]), int(count))
        label = f"{path.name} {count} faces:"
        yield _differences(f"{label} corners", mesh.faces, out["faces"])
        for name in ("vertices", "vertex_normals", "face_normals"):
            yield _errors(f"{label} {name}", getattr(mesh, name), out[name])


def skeleton_input_comparisons(path: Path) -> Iterator[Comparison]:
    """The skeleton network's points and normals: absolute errors."""
    for case_name, case in torch.load(path, weights_only=True).items():
        name = f"{path.name} {case_name}"
        mesh = CleanMesh(
            vertices=_array(case["raw_vertices"]),
            faces=_array(case["faces"]),
            vertex_normals=_array(case["raw_vertex_normals"]),
            face_normals=_array(case["raw_face_normals"]),
        )
        vertices = _array(case["vertices"])
        if _within(case["joints"], vertices):
            ours = frame_of(mesh.vertices).normalised(mesh.vertices)
            yield _errors(f"{name}: vertices", ours, case["vertices"])
        samples = sample_surface(replace(mesh, vertices=vertices), SKELETON_POINTS, _SEED)
        yield from _samples_compared(name, samples, case)


def skin_input_comparisons(path: Path) -> Iterator[Comparison]:
    """The skin network's points, normals, joints and prior: absolute errors. The voxels that the
    prior is computed from: the share of them that differs."""
    for case_name, case in torch.load(path, weights_only=True).items():
        name = f"{path.name} {case_name}"
        raw = case["raw"]
        mesh = CleanMesh(
            vertices=_array(raw["vertices"]),
            faces=_array(raw["faces"]),
            vertex_normals=_array(raw["vertex_normals"]),
            face_normals=_array(raw["face_normals"]),
        )
        held = np.concatenate([mesh.vertices, _array(raw["joints"])])
        frame = frame_of(held)
        vertices = frame.normalised(mesh.vertices)
        joints = frame.normalised(_array(raw["joints"]))
        samples = sample_surface(replace(mesh, vertices=vertices), SKIN_POINTS, _SEED)
        yield _errors(f"{name}: vertices", vertices, case["vertices"])
        yield _errors(f"{name}: joints", joints, case["joints"])
        yield from _samples_compared(name, samples, case)
        yield from _priors_compared(name, vertices, joints, samples, case)


def _priors_compared(
    name: str, vertices: _Array, joints: _Array, samples: SurfaceSamples, case: _Case
) -> Iterator[Comparison]:
    faces, theirs = _array(case["faces"]), _array(case["grid_coords"]).astype(np.float64)
    places, targets = in_own_cube(vertices, joints)
    if name.endswith("_open3d"):
        ours = filled_between_crossed(places, faces, GRID)
        centres = ours
    else:
        ours = voxel_centres(filled_between_depths(places, faces, GRID))
        # What the renderer rounds must not count as an error of what follows.
        centres = theirs
    different = len(_cells(ours) ^ _cells(theirs)) / len(theirs)
    yield Comparison(f"{name}: voxels, share that differs", different, _VOXELS)
    prior = nearness(
        geodesic_distances(places, faces, targets, centres, 2.0 / GRID, lambda share: None)
    )
    yield _errors(f"{name}: prior", prior, case["voxel_skin"])
    sampled = at_samples(prior, faces, samples)
    for part, rows in (("first", np.s_[:2000]), ("last", np.s_[-2000:])):
        expected = case[f"sampled_voxel_skin_{part}2000"]
        yield _errors(f"{name}: prior at the {part} samples", sampled[rows], expected)


def vertex_weight_comparisons(path: Path) -> Iterator[Comparison]:
    """Weights of vertices from those of sampled points: absolute errors."""
    golden = torch.load(path, weights_only=True)
    chunks = vertex_weights(
        _array(golden["sampled_vertices"]),
        _array(golden["sampled_skin"]),
        _array(golden["vertices"]),
        _array(golden["faces"]),
        np.array([-1 if parent is None else parent for parent in golden["parents"]], np.int32),
    )
    weights = np.concatenate([chunk for _, chunk in chunks])
    yield _errors(f"{path.name} weights", weights, golden["out"])


def _within(joints: torch.Tensor | None, vertices: _Array) -> bool:
    """Whether joints, of which only the normalised places are kept, left the frame to the mesh."""
    if joints is None:
        return True
    places = _array(joints)
    return bool((places >= vertices.min(axis=0)).all() and (places <= vertices.max(axis=0)).all())


def _samples_compared(name: str, samples: SurfaceSamples, case: _Case) -> Iterator[Comparison]:
    yield _errors(f"{name}: points", samples.points, case["sampled_vertices"])
    yield _errors(f"{name}: normals", samples.normals, case["sampled_normals"])


def _cells(centres: _Array) -> set[tuple[int, ...]]:
    """Voxels by number; whole or half, as the grid begins."""
    return set(map(tuple, np.round(centres * GRID).astype(np.int64).tolist()))


def _errors(name: str, ours: _Array, theirs: torch.Tensor) -> Comparison:
    expected = _array(theirs)
    if ours.shape != expected.shape:
        return Comparison(f"{name} (shape)", float("inf"), _BOUND)
    return Comparison(name, float(np.abs(ours - expected).max()), _BOUND)


def _differences(name: str, ours: _Array, theirs: torch.Tensor) -> Comparison:
    expected = _array(theirs)
    if ours.shape != expected.shape:
        return Comparison(f"{name} (shape)", float("inf"), 0.0)
    return Comparison(name, float((ours != expected).sum()), 0.0)


def _array(tensor: torch.Tensor) -> _Array:
    return np.asarray(tensor.numpy())
