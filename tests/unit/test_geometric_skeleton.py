"""Skeletons of the geometric engine."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import trimesh

from services.inference.checks import check_skeleton
from services.inference.geometric.draft import joint_places
from services.inference.geometric.engine import predict_skeleton
from services.inference.geometry import Float, Mesh, Skeleton
from tests.generated_bodies import (
    Vector,
    as_mesh,
    beetle,
    capsule,
    dog,
    dome,
    person,
    person_with_hands,
    swan,
    triangles,
    two_quads,
)

HUMANOID = {"hips", "spine", "chest", "neck", "head"} | {
    f"{side}_{bone}"
    for side in ("left", "right")
    for bone in (
        "shoulder",
        "upper_arm",
        "lower_arm",
        "hand",
        "upper_leg",
        "lower_leg",
        "foot",
        "toes",
    )
}

FINGERS = {
    f"{side}_{finger}_{bone}"
    for side in ("left", "right")
    for finger in ("thumb", "index", "middle", "ring", "little")
    for bone in (
        ("metacarpal", "proximal", "distal")
        if finger == "thumb"
        else ("proximal", "intermediate", "distal")
    )
}


def rig(mesh: Mesh) -> Skeleton:
    """A checked skeleton."""
    skeleton = predict_skeleton(mesh, lambda share, message: None)
    check_skeleton(mesh, skeleton)
    assert (np.linalg.norm(skeleton.tails - skeleton.heads, axis=1) > 0).all()
    return skeleton


def head_of(skeleton: Skeleton, name: str) -> Float:
    place: Float = skeleton.heads[skeleton.names.index(name)]
    return place


def shuffled_soup(mesh: Mesh) -> Mesh:
    """Loose triangles, every second one turned inside out, one in twenty gone."""
    rng = np.random.default_rng(7)
    faces = mesh.faces[rng.random(len(mesh.faces)) > 0.05].copy()
    faces[::2] = faces[::2, ::-1]
    return triangles(mesh.vertices[faces].reshape(-1, 3), np.arange(faces.size))


def turned(mesh: Mesh) -> Mesh:
    """The mesh turned by 30 degrees about the up axis."""
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    return triangles(mesh.vertices @ turn.T, mesh.faces)


def scaled(mesh: Mesh) -> Mesh:
    """The mesh in millimetres, far from the origin."""
    return triangles(mesh.vertices * 1000 + [5000, 0, 0], mesh.faces)


@pytest.mark.parametrize("change", [lambda mesh: mesh, shuffled_soup, turned, scaled])
def test_a_person_gets_the_standard_joints_in_any_state(change: Callable[[Mesh], Mesh]) -> None:
    assert set(rig(change(person())).names) == HUMANOID


def test_the_joints_of_a_person_are_where_its_limbs_bend() -> None:
    skeleton = rig(person())
    for name, place in {
        "hips": (0, 1.0, 0),
        "left_upper_leg": (0.1, 0.9, 0),
        "left_lower_leg": (0.1, 0.5, 0),
        "left_foot": (0.1, 0.08, 0),
        "right_upper_arm": (-0.15, 1.4, 0),
        "right_lower_arm": (-0.43, 1.4, 0),
        "right_hand": (-0.67, 1.4, 0),
        "head": (0, 1.57, 0),
    }.items():
        assert np.linalg.norm(head_of(skeleton, name) - place) < 0.1, name


def test_a_person_whose_legs_touch_all_the_way_gets_two() -> None:
    mesh = person()
    legs = mesh.vertices[:, 1] < 0.8
    together = mesh.vertices - np.outer(legs * np.sign(mesh.vertices[:, 0]), [0.03, 0, 0])
    skeleton = rig(triangles(together, mesh.faces))
    assert set(skeleton.names) == HUMANOID
    np.testing.assert_allclose(head_of(skeleton, "left_lower_leg"), (0.07, 0.5, 0), atol=0.06)


def test_left_is_left_of_the_direction_the_feet_point_to() -> None:
    mesh = person()
    assert head_of(rig(mesh), "left_foot")[0] > 0.05
    backwards = triangles(mesh.vertices * [-1, 1, -1], mesh.faces)
    assert head_of(rig(backwards), "left_foot")[0] < -0.05


def test_a_person_is_rigged_symmetrically() -> None:
    skeleton = rig(person())
    for name in HUMANOID:
        if name.startswith("left"):
            mirrored = head_of(skeleton, name.replace("left", "right")) * [-1, 1, 1]
            np.testing.assert_allclose(head_of(skeleton, name), mirrored, atol=0.01)


def test_a_person_with_fingers_gets_three_joints_for_each_from_the_thumb_on() -> None:
    skeleton = rig(person_with_hands())
    assert set(skeleton.names) == HUMANOID | FINGERS
    for side, x in (("left", 1), ("right", -1)):
        knuckles = [
            head_of(skeleton, f"{side}_{finger}_proximal")
            for finger in ("index", "middle", "ring", "little")
        ]
        places = [(x * 0.92, 1.4, z) for z in (0.04, 0.013, -0.013, -0.04)]
        np.testing.assert_allclose(knuckles, places, atol=0.03)
        assert (np.diff(knuckles, axis=0)[:, 2] < -0.01).all()
        assert head_of(skeleton, f"{side}_thumb_distal")[2] > 0.06


@pytest.mark.parametrize(("fingered", "fingers"), [((1,), FINGERS), ((-1,), FINGERS), ((), set())])
def test_both_hands_get_the_fingers_that_one_of_them_shows(
    fingered: tuple[int, ...], fingers: set[str]
) -> None:
    assert set(rig(person_with_hands(fingered)).names) == HUMANOID | fingers


def test_the_legs_of_an_animal_hang_from_its_spine() -> None:
    skeleton = rig(dog())
    spine = head_of(skeleton, "spine_1")
    assert 0.55 < spine[1] < 0.68
    for leg, z in (("front", 0.38), ("back", -0.38)):
        np.testing.assert_allclose(
            head_of(skeleton, f"leg_{leg}_left_1")[[0, 2]], (0.1, z), atol=0.02
        )
        assert 0.4 < head_of(skeleton, f"leg_{leg}_left_1")[1] < spine[1]
    assert abs(head_of(skeleton, "root")[2] + 0.38) < 0.06


def test_each_leg_of_an_insect_has_three_joints() -> None:
    skeleton = rig(beetle())
    legs = [name for name in skeleton.names if name.startswith("leg_")]
    assert set(legs) == {
        f"leg_{pair}_{side}_{joint}"
        for pair in (1, 2, 3)
        for side in ("left", "right")
        for joint in (1, 2, 3)
    }
    assert len(skeleton.names) < len(legs) + 4
    assert abs(head_of(skeleton, "root")[0]) < 0.01


def test_the_legs_of_a_daddy_longlegs_are_no_sheet() -> None:
    legs = []
    for x, z in [(side * (1 - abs(z) / 4), z) for side in (1, -1) for z in (-0.9, -0.3, 0.3, 0.9)]:
        legs += [
            capsule((0.1 * x, 0.3, 0.1 * z), (0.5 * x, 0.6, 0.5 * z), 0.015),
            capsule((0.5 * x, 0.6, 0.5 * z), (x, 0, z), 0.015),
        ]
    body = [
        capsule((0, 0.3, -0.2), (0, 0.3, 0.1), 0.08),
        capsule((0, 0.3, 0.1), (0, 0.3, 0.2), 0.05),
    ]
    names = rig(as_mesh(*body, *legs)).names
    assert {f"leg_{leg}_{side}_1" for leg in range(1, 5) for side in ("left", "right")} <= set(
        names
    )


def test_an_animal_on_four_legs_gets_legs_neck_head_and_tail_rooted_at_the_hips() -> None:
    skeleton = rig(dog())
    chains = {name.rstrip("0123456789").rstrip("_") for name in skeleton.names}
    assert chains >= {
        "root",
        "spine",
        "neck",
        "head",
        "tail",
        "leg_front_left",
        "leg_front_right",
        "leg_back_left",
        "leg_back_right",
    }
    assert head_of(skeleton, "root")[2] < -0.2
    assert head_of(skeleton, "head")[2] > 0.4
    assert head_of(skeleton, "leg_front_left_1")[0] > 0
    assert head_of(skeleton, "leg_back_left_1")[2] < 0


def test_a_dog_that_steps_out_gets_the_same_joints_as_one_that_stands() -> None:
    mesh = dog()
    standing = mesh.vertices
    low = np.clip(0.5 - standing[:, 1], 0.0, None)
    front, left = standing[:, 2] > 0.1, standing[:, 0] > 0.0
    stepping = standing + np.outer(low * np.where(front == left, 0.5, -0.3), [0.0, 0.0, 1.0])
    names = set(rig(mesh).names)
    assert names == set(rig(triangles(stepping, mesh.faces)).names)
    assert "leg_back_right_4" in names


def with_parts(mesh: Mesh, *parts: trimesh.Trimesh) -> Mesh:
    return as_mesh(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False), *parts)


def test_ears_too_small_for_the_curves_are_found_and_none_where_there_are_none() -> None:
    ears = [capsule((side * 0.06, 1.0, 0.6), (side * 0.15, 1.05, 0.58), 0.012) for side in (1, -1)]
    skeleton = rig(with_parts(dog(), *ears))
    assert set(skeleton.names) == {*rig(dog()).names, "ear_left_1", "ear_right_1"}
    for side, x in (("left", 1), ("right", -1)):
        place = skeleton.names.index(f"ear_{side}_1")
        np.testing.assert_allclose(skeleton.tails[place], (x * 0.15, 1.05, 0.58), atol=0.03)
        assert skeleton.names[skeleton.parents[place]] == "head"


def test_the_hips_are_on_the_back_though_the_tail_hangs_from_them() -> None:
    tail = capsule((0, 0.6, -0.5), (0, 0.2, -0.62), 0.04)
    mesh = dog()
    kept = mesh.vertices[mesh.faces].mean(axis=1)[:, 2] > -0.56
    hanging = with_parts(triangles(mesh.vertices, mesh.faces[kept]), tail)
    root = head_of(rig(hanging), "root")
    assert root[1] > 0.58
    assert abs(root[2] + 0.38) < 0.06


def test_legs_whose_feet_touch_are_two() -> None:
    mesh = dog()
    low = np.clip((0.5 - mesh.vertices[:, 1]) / 0.45, 0.0, 1.0) * (mesh.vertices[:, 2] < 0.0)
    touching = mesh.vertices - np.outer(low, [0.06, 0, 0]) * np.sign(mesh.vertices[:, :1])
    skeleton = rig(triangles(touching, mesh.faces))
    assert set(skeleton.names) == set(rig(mesh).names)
    assert head_of(skeleton, "leg_back_left_2")[0] > 0.05
    assert head_of(skeleton, "leg_back_right_2")[0] < -0.05


def test_a_pair_of_legs_in_the_air_is_legs() -> None:
    mesh = dog()
    middles = mesh.vertices[mesh.faces].mean(axis=1)
    hind = (np.abs(middles[:, 2] + 0.38) < 0.06) & (middles[:, 1] < 0.44)
    legs = [capsule((x, 0.55, -0.38), (x, 0.2, -0.4), 0.05) for x in (0.1, -0.1)]
    lifted = with_parts(triangles(mesh.vertices, mesh.faces[~hind]), *legs)
    assert {"leg_front_left_1", "leg_back_left_1"} <= set(rig(lifted).names)


def test_a_bird_gets_wings_along_their_leading_edge_two_legs_and_a_tail() -> None:
    skeleton = rig(swan())
    chains = Counter(name.rstrip("0123456789").rstrip("_") for name in skeleton.names)
    sides = ("left", "right")
    assert chains == {
        **dict.fromkeys(("root", "spine", "head", "tail"), 1),
        "neck": 2,
        **{f"{limb}_{side}": 3 for limb in ("wing", "leg") for side in sides},
    }
    for joint, x in (("wing_left_2", 0.4), ("wing_right_2", -0.4), ("wing_left_3", 0.65)):
        np.testing.assert_allclose(head_of(skeleton, joint), (x, 0.6, 0.07), atol=0.07)
    assert head_of(skeleton, "leg_left_3")[1] < 0.1
    assert head_of(skeleton, "tail_1")[2] < -0.15


def test_a_joint_is_where_its_bones_meet_though_the_curve_cuts_the_corner() -> None:
    shares = np.linspace(0.0, 1.0, 21)[:, None]
    corner = np.array([0.0, 0.5, 0.0])
    before, after = corner * shares, corner + shares * [0.0, 0.0, 0.5]
    curve = np.concatenate([before[:-3], after[3:]])
    cut = len(before) - 3
    places = joint_places(curve, np.array([0, cut, len(curve) - 1]))
    np.testing.assert_allclose(places[1], corner, atol=0.01)
    np.testing.assert_array_equal(places[[0, 2]], curve[[0, -1]])


@pytest.mark.parametrize(
    "mesh",
    [
        two_quads(),
        dome(),
        as_mesh(trimesh.creation.box()),
        as_mesh(trimesh.creation.box((0.1, 2, 0.02)), trimesh.creation.box((0.5, 0.05, 0.05))),
        as_mesh(trimesh.creation.torus(1, 0.2)),
        as_mesh(
            trimesh.creation.icosphere(), trimesh.creation.icosphere().apply_translation([9, 0, 0])
        ),
        triangles([[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]], [[0, 1, 2], [1, 2, 3]]),
        triangles([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 1, 2], [0, 1, 3]]),
    ],
    ids=["quads", "dome", "cube", "sword", "torus", "apart", "line", "two triangles"],
)
def test_things_that_are_no_bodies_get_a_valid_tree_all_the_same(mesh: Mesh) -> None:
    assert 1 <= len(rig(mesh).names) <= 90


def test_random_triangles_always_get_a_valid_tree() -> None:
    rng = np.random.default_rng(11)
    for _ in range(8):
        vertices = rng.normal(size=(30, 3)) * rng.random(3) ** 3
        rig(triangles(vertices, rng.integers(0, 30, (25, 3))))


def test_the_same_mesh_gives_the_same_skeleton() -> None:
    first, second = rig(person()), rig(person())
    assert first.names == second.names
    np.testing.assert_array_equal(first.heads, second.heads)


def test_progress_never_goes_back_and_comes_in_many_steps() -> None:
    shares: list[float] = []
    predict_skeleton(person(), lambda share, message: shares.append(share))
    assert shares == sorted(shares)
    assert len(set(shares)) >= 10
    assert max(np.diff([0.0, *shares])) < 0.35
    assert shares[-1] == 1.0


CORNERS = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("vertices", "faces", "reason"),
    [
        (CORNERS, [], "no faces"),
        ([[np.nan, 0, 0], *CORNERS[1:]], [[0, 1, 2]], "not finite"),
        ([[np.inf, 0, 0], *CORNERS[1:]], [[0, 1, 2]], "not finite"),
        (CORNERS, [[0, 1, 4]], "does not have"),
        (CORNERS, [[0, 1, -1]], "does not have"),
        (CORNERS, [[0, 1, 2]], "fewer than four"),
        ([*CORNERS[:3], CORNERS[0]], [[0, 1, 2], [1, 2, 3]], "fewer than four"),
        (np.zeros((4, 3)), [[0, 1, 2], [1, 2, 3]], "no size"),
        (np.array(CORNERS) * 1e30, [[0, 1, 2], [1, 2, 3]], "too large"),
        (np.array(CORNERS) + 1e7, [[0, 1, 2], [1, 2, 3]], "too far"),
        (CORNERS, [[0, 1, 1], [2, 3, 3]], "degenerate"),
    ],
)
def test_what_cannot_be_rigged_is_refused_with_the_reason(
    vertices: list[list[float]], faces: list[list[int]], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        rig(triangles(vertices, faces))


def test_a_scanned_body_gets_the_standard_joints(models: Path) -> None:
    body = trimesh.load_mesh(models / "human.obj", process=False)
    skeleton = rig(triangles(body.vertices, body.faces))
    assert set(skeleton.names) == HUMANOID | FINGERS
    assert head_of(skeleton, "left_hand")[0] > 4
    assert head_of(skeleton, "left_thumb_distal")[2] > head_of(skeleton, "left_little_distal")[2]


def test_a_low_poly_fox_gets_four_legs_and_a_tail(models: Path) -> None:
    fox = trimesh.load_scene(models / "fox.glb").to_mesh()
    names = rig(triangles(fox.vertices, fox.faces)).names
    for chain in (
        *("leg_front_left_3", "leg_front_right_3", "leg_back_left_4", "leg_back_right_4"),
        *("tail_1", "head", "ear_left_1", "ear_right_1"),
    ):
        assert chain in names


def box(size: tuple[float, float, float], place: tuple[float, float, float]) -> trimesh.Trimesh:
    mesh = trimesh.creation.box(size).subdivide()
    mesh.apply_translation(place)
    return mesh


def sword() -> Mesh:
    return as_mesh(
        capsule((0, 0, 0), (0, 0.3, 0), 0.03),
        box((0.12, 1.0, 0.04), (0, 0.8, 0)),
        capsule((-0.25, 0.3, 0), (0.25, 0.3, 0), 0.03),
    )


def table() -> Mesh:
    legs = [capsule((x, 0, z), (x, 0.7, z), 0.04) for x in (-0.5, 0.5) for z in (-0.3, 0.3)]
    return as_mesh(box((1.3, 0.05, 0.9), (0, 0.72, 0)), *legs)


@pytest.mark.parametrize(
    "mesh", [sword(), table(), as_mesh(trimesh.creation.box((0.4, 1, 0.6)))], ids=str
)
def test_a_stiff_thing_has_one_joint_in_its_middle(mesh: Mesh) -> None:
    skeleton = rig(mesh)
    assert len(skeleton.names) == 1
    middle = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    assert np.linalg.norm(skeleton.heads[0] - middle) < 0.25 * mesh.extent


def test_a_lamp_has_a_bone_for_each_arm_and_none_in_its_foot() -> None:
    foot = trimesh.creation.cylinder(0.3, segment=[(0, 0, 0), (0, 0.03, 0)], sections=32)
    skeleton = rig(
        as_mesh(
            foot,
            capsule((0, 0, 0), (0, 0.7, -0.1), 0.03),
            capsule((0, 0.7, -0.1), (0, 1.1, 0.4), 0.03),
        )
    )
    assert len(skeleton.names) == 2
    assert skeleton.heads[0, 1] < 0.15
    np.testing.assert_allclose(skeleton.heads[1], (0, 0.7, -0.1), atol=0.08)


def test_tongs_turn_where_their_arms_meet() -> None:
    arms = [capsule((0, 1, 0), (x, 0, 0), 0.04) for x in (-0.3, 0.3)]
    skeleton = rig(as_mesh(*arms))
    assert len(skeleton.names) == 3
    assert (skeleton.heads[:, 1] > 0.8).all()


def test_a_snake_keeps_its_chain() -> None:
    along = np.linspace(0, 1, 9)
    places = [(0.15 * np.sin(7 * s), 0.05, 1.6 * s) for s in along]
    skeleton = rig(as_mesh(*(capsule(a, b, 0.05) for a, b in pairwise(places))))
    assert 7 <= len(skeleton.names) <= 14


def test_a_fin_as_thin_as_a_sheet_has_one_chain_at_most() -> None:
    fin = box((0.02, 0.45, 0.4), (0, 0.4, 0))
    skeleton = rig(as_mesh(capsule((0, 0.1, -0.7), (0, 0.15, 0.7), 0.12), fin))
    chains = {name.rsplit("_", 1)[0] for name in skeleton.names}
    in_fin = skeleton.heads[:, 1] > 0.3
    assert in_fin.sum() <= 3
    assert len(chains) <= 4


def ring(place: Vector, radius: float, thickness: float) -> list[trimesh.Trimesh]:
    """An upright ring of capsules across z."""
    angles = np.linspace(0, 2 * np.pi, 14)
    x, y = place[0] + radius * np.cos(angles), place[1] + radius * np.sin(angles)
    places = [(float(a), float(b), place[2]) for a, b in zip(x, y, strict=True)]
    return [capsule(a, b, thickness) for a, b in pairwise(places)]


def test_what_is_alike_from_before_and_behind_is_stiff_whatever_its_parts() -> None:
    wheels = [(x, 0.2, z) for x in (-0.4, 0.4) for z in (-0.6, 0.6)]
    car = as_mesh(
        box((0.8, 0.4, 2), (0, 0.5, 0)),
        box((0.8, 0.4, 1), (0, 0.8, 0)),
        *(capsule((x - 0.05, y, z), (x + 0.05, y, z), 0.2) for x, y, z in wheels),
    )
    assert len(rig(car).names) == 1


def test_nothing_turns_within_a_loop() -> None:
    upright = capsule((0, 0, 0), (0, 1, 0), 0.05)
    bent = capsule((0, 0, 0), (0.2, 0, 0.7), 0.05)
    skeleton = rig(as_mesh(*ring((0, 1.25, 0), 0.25, 0.04), upright, bent))
    assert len(skeleton.names) <= 4
    assert (skeleton.heads[:, 1] < 1.1).all()


def test_a_bulky_thing_has_no_joints_in_what_hardly_sticks_out() -> None:
    pedestal = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    pedestal.apply_translation((0, 0.4, 0))
    knobs = [capsule((0, 0.4, 0), (x, 0.5, z), 0.1) for x, z in ((0.7, 0.1), (-0.6, 0.4))]
    skeleton = rig(as_mesh(pedestal, capsule((0, 0.4, 0), (0.1, 2, 0.1), 0.15), *knobs))
    assert len(skeleton.names) <= 5
    assert (np.abs(skeleton.heads[:, 0]) < 0.4).all()


def test_a_fish_has_a_spine_and_few_bones_in_its_fins() -> None:
    girth = {-0.8: 0.05, -0.4: 0.08, 0.0: 0.12, 0.4: 0.15}
    body = [capsule((0, 0, z), (0, 0, z + 0.4), radius) for z, radius in girth.items()]
    fins = [box((0.7, 0.05, 0.2), (side * 0.4, 0, 0.4)) for side in (1, -1)]
    tail = box((0.05, 0.5, 0.2), (0, 0.1, -0.85))
    skeleton = rig(as_mesh(*body, *fins, tail))
    beside = np.abs(skeleton.heads[:, 0]) > 0.05
    assert 2 <= beside.sum() <= 4
    assert 5 <= (~beside).sum() <= 10
