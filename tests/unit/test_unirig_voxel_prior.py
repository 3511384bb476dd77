"""Which joints are near through the solid."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from services.inference.unirig_geometry import voxel_prior as priors
from services.inference.unirig_geometry.mesh_cleaning import CleanMesh, clean_mesh
from services.inference.unirig_geometry.voxel_fill import (
    filled_between_crossed,
    filled_between_depths,
    voxel_centres,
)
from services.inference.unirig_geometry.voxel_prior import (
    geodesic_distances,
    nearness,
    voxel_prior,
)
from services.inference.unirig_network.parity_geometry import skin_input_comparisons

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "data_skin_transform.pt"


def clean(*parts: trimesh.Trimesh) -> CleanMesh:
    whole = trimesh.util.concatenate(list(parts))
    return clean_mesh(whole.vertices.astype(np.float32), whole.faces)


def ball(radius: float = 1.0, at: tuple[float, float, float] = (0, 0, 0)) -> trimesh.Trimesh:
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    sphere.apply_translation(at)
    return sphere


def prior_of(mesh: CleanMesh, *joints: tuple[float, float, float]) -> np.ndarray:
    places = np.array(joints, np.float32)
    return voxel_prior(mesh.vertices, mesh.faces, places, lambda share: None)


def test_voxels_and_prior_match_the_reference() -> None:
    if not GOLDEN.is_file():
        pytest.skip(f"the reference's outputs are not beside the checkout ({GOLDEN})")
    compared = list(skin_input_comparisons(GOLDEN))
    assert len(compared) >= 16
    assert [str(one) for one in compared if not one.holds] == []


def test_both_fills_of_a_ball_are_the_ball() -> None:
    mesh = clean(ball())
    vertices = mesh.vertices.astype(np.float64)
    between_depths = voxel_centres(filled_between_depths(vertices, mesh.faces, 40))
    between_crossed = filled_between_crossed(vertices, mesh.faces, 40)
    for centres, over in ((between_depths, 0.05), (between_crossed, 0.1)):
        assert np.linalg.norm(centres, axis=1).max() < 1.0 + over
        assert len(centres) * 0.05**3 == pytest.approx(4 / 3 * np.pi, rel=2 * over)


def test_heights_are_mirrored_as_in_the_images_of_the_reference() -> None:
    """Between two legs a column along z sees the hips, and counts as inside at their mirror."""
    hips = trimesh.creation.box(
        (2, 0.2, 0.2), transform=trimesh.transformations.translation_matrix((0, 0, 0.9))
    )
    legs = [
        trimesh.creation.box(
            (0.2, 0.2, 2), transform=trimesh.transformations.translation_matrix((x, 0, 0))
        )
        for x in (-0.9, 0.9)
    ]
    mesh = clean(hips, *legs)
    filled = filled_between_depths(mesh.vertices.astype(np.float64), mesh.faces, 40)
    centres = voxel_centres(filled)
    between = centres[np.abs(centres[:, 0]) < 0.7]
    assert (between[:, 2] < -0.8).any()
    assert not (np.abs(between[:, 2]) < 0.75).any()


def test_each_end_of_a_bar_is_nearest_to_its_own_joint() -> None:
    bar = clean(trimesh.creation.box((4, 0.5, 0.5)).subdivide().subdivide().subdivide())
    prior = prior_of(bar, (-1.5, 0, 0), (1.5, 0, 0))
    np.testing.assert_allclose(prior.sum(axis=1), 1.0)
    assert (prior[bar.vertices[:, 0] < -0.6, 0] > 0.6).all()
    assert (prior[bar.vertices[:, 0] > 0.6, 1] > 0.6).all()


def test_distance_goes_through_the_solid_and_not_across_the_gap() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]])
    bent = np.array([[0, 1, 1], [1, 2, 2], [2, 3, 3]])
    joints = vertices[:1]
    distances = geodesic_distances(
        vertices, bent, joints, np.empty((0, 3)), 0.1, lambda share: None
    )
    np.testing.assert_allclose(distances[:, 0], [0, 1, 2, 3])


def test_a_loose_part_without_a_joint_is_nearest_to_the_joint_beside_it() -> None:
    mesh = clean(ball(), ball(0.1, at=(1.5, 0, 0)))
    prior = prior_of(mesh, (-0.5, 0, 0), (0, 0, 0), (0.2, 0, 0), (0.5, 0, 0))
    loose = mesh.vertices[:, 0] > 1.3
    assert (prior[loose].argmax(axis=1) == 3).all()
    assert (prior[loose, 0] < 0.1).all()


def test_one_joint_has_it_all_and_joints_in_one_place_share() -> None:
    mesh = clean(ball())
    np.testing.assert_allclose(prior_of(mesh, (0, 0, 0)), 1.0)
    np.testing.assert_allclose(prior_of(mesh, (0, 0, 0), (0, 0, 0)), 0.5)


def test_a_flat_sheet_has_a_prior_although_it_has_no_inside() -> None:
    sheet = trimesh.creation.box((1, 1, 1)).subdivide()
    flat = clean_mesh((sheet.vertices * [1, 1, 0]).astype(np.float32), sheet.faces)
    prior = prior_of(flat, (-0.4, 0, 0), (0.4, 0, 0))
    assert np.isfinite(prior).all()
    assert prior[flat.vertices[:, 0].argmin()].argmax() == 0


def test_nearness_falls_with_distance_and_is_never_infinite() -> None:
    shares = nearness(np.array([[0.0, 1.0, 2.0]]))
    assert np.isfinite(shares).all()
    assert shares[0, 0] > shares[0, 1] > shares[0, 2]


def test_a_bulky_model_gets_a_coarser_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    real = priors.geodesic_distances

    def counted(vertices, faces, joints, centres, side, progress):  # type: ignore[no-untyped-def]
        counts.append(len(centres))
        return real(vertices, faces, joints, centres, side, progress)

    monkeypatch.setattr(priors, "geodesic_distances", counted)
    monkeypatch.setattr(priors, "_MOST_VOXELS", 60_000)
    prior = prior_of(clean(ball()), (-0.5, 0, 0), (0.5, 0, 0))
    assert 30_000 < counts[0] <= 60_000
    assert np.isfinite(prior).all()
