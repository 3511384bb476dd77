import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.cli.picture import draw_rig
from services.cli.poses import example_poses, find_limbs, posed_worlds
from services.cli.raster import rasterise
from services.cli.rigged_model import GlbError, read_rigged_glb, skin

Json = dict[str, Any]

# A stick figure: hips, spine, head, and on each side a three-joint leg and a three-joint arm.
_BIPED = [
    ("hips", -1, (0, 1, 0)),
    ("spine", 0, (0, 1.3, 0)),
    ("head", 1, (0, 1.6, 0)),
    ("left leg", 0, (0.15, 0.9, 0)),
    ("left shin", 3, (0.15, 0.5, 0)),
    ("left foot", 4, (0.15, 0.1, 0)),
    ("right leg", 0, (-0.15, 0.9, 0)),
    ("right shin", 6, (-0.15, 0.5, 0)),
    ("right foot", 7, (-0.15, 0.1, 0)),
    ("left arm", 1, (0.2, 1.4, 0)),
    ("left forearm", 9, (0.5, 1.4, 0)),
    ("left hand", 10, (0.8, 1.4, 0)),
    ("right arm", 1, (-0.2, 1.4, 0)),
    ("right forearm", 12, (-0.5, 1.4, 0)),
    ("right hand", 13, (-0.8, 1.4, 0)),
]
_HEADS = np.array([head for _, _, head in _BIPED], np.float32)
_PARENTS = np.array([parent for _, parent, _ in _BIPED], np.int32)


class GlbFile:
    """A GLB written array by array."""

    def __init__(self) -> None:
        self.document: Json = {
            "asset": {"version": "2.0"},
            "scene": 0,
            "accessors": [],
            "bufferViews": [],
        }
        self._bytes = b""

    def add(self, array: np.ndarray, kind: str, normalized: bool = False) -> int:
        components = {"float32": 5126, "uint8": 5121, "uint16": 5123, "uint32": 5125}
        data = array.tobytes()
        view = {"buffer": 0, "byteOffset": len(self._bytes), "byteLength": len(data)}
        self._bytes += data + b"\0" * (-len(data) % 4)
        self.document["bufferViews"].append(view)
        accessor = {
            "bufferView": len(self.document["bufferViews"]) - 1,
            "componentType": components[array.dtype.name],
            "count": len(array),
            "type": kind,
            "normalized": normalized,
        }
        self.document["accessors"].append(accessor)
        return len(self.document["accessors"]) - 1

    def save(self, path: Path) -> Path:
        self.document["buffers"] = [{"byteLength": len(self._bytes)}]
        text = json.dumps(self.document).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(self._bytes), b"BIN\0") + self._bytes
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
        return path


def _box_at(centre: np.ndarray, half: float) -> tuple[np.ndarray, np.ndarray]:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]
    return (centre + corners * half).astype(np.float32), np.array(faces, np.uint32)


def _biped_file(path: Path, with_skin: bool, to_the_root: bool = False) -> Path:
    """A red box around every joint. With skin, it follows the joint or the root; its mesh node is
    moved away, which a skinned mesh must ignore. The joints hang below a moved and scaled node."""
    file = GlbFile()
    boxes = [_box_at(head, 0.05) for head in _HEADS]
    vertices = np.concatenate([box for box, _ in boxes])
    faces = np.concatenate([box_faces + 8 * index for index, (_, box_faces) in enumerate(boxes)])
    attributes = {"POSITION": file.add(vertices, "VEC3")}
    nodes: list[Json] = [
        {"name": "armature", "translation": [0, 0, 5], "scale": [2, 2, 2], "children": [2]},
        {"name": "boxes", "mesh": 0, "translation": [0, 7 if with_skin else 0, 0]},
    ]
    for index, (name, parent, head) in enumerate(_BIPED):
        # The root undoes what the armature does.
        scale = 0.5 if parent < 0 else 1.0
        above = np.array([0, 0, 5]) if parent < 0 else _HEADS[parent]
        shift = (np.array(head) - above) * scale
        children = [2 + child for child, (_, above, _) in enumerate(_BIPED) if above == index]
        node: Json = {"name": name, "translation": shift.tolist(), "scale": [scale] * 3}
        nodes.append(node | ({"children": children} if children else {}))
    if with_skin:
        owner = np.repeat(np.arange(len(_BIPED), dtype=np.uint8), 8)
        joints = np.zeros((len(owner), 4), np.uint8)
        joints[:, 0] = 0 if to_the_root else owner
        weights = np.zeros((len(owner), 4), np.uint8)
        weights[:, 0] = 255
        attributes["JOINTS_0"] = file.add(joints, "VEC4")
        attributes["WEIGHTS_0"] = file.add(weights, "VEC4", normalized=True)
        inverse = np.tile(np.eye(4, dtype=np.float32), (len(_BIPED), 1, 1))
        inverse[:, :3, 3] = -_HEADS
        columns = np.ascontiguousarray(inverse.transpose(0, 2, 1)).reshape(-1, 16)
        joint_nodes = [2 + index for index in range(len(_BIPED))]
        file.document["skins"] = [
            {"joints": joint_nodes, "inverseBindMatrices": file.add(columns, "MAT4")}
        ]
        nodes[1]["skin"] = 0
    indices = file.add(faces.reshape(-1, 1).astype(np.uint16), "SCALAR")
    primitive = {"attributes": attributes, "indices": indices, "material": 0}
    file.document |= {
        "nodes": nodes,
        "scenes": [{"nodes": [0, 1]}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": [0.8, 0.02, 0.02, 1]}}],
    }
    return file.save(path)


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def _count_red(pixels: np.ndarray) -> int:
    red, green, blue = pixels.reshape(-1, 3).T
    return int(((red > 2 * green) & (red > 2 * blue) & (red > 60)).sum())


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The picture of the skinned biped."""
    folder = tmp_path_factory.mktemp("picture")
    draw_rig(_biped_file(folder / "biped.glb", True), folder / "biped.png", "A biped")
    return folder / "biped.png"


def test_a_skinned_file_gets_the_rest_pose_its_weights_and_poses(picture: Path) -> None:
    pixels = _pixels(picture)
    height, width = pixels.shape[:2]
    assert width >= 1000
    assert height >= 1000
    weights_panel = pixels[int(0.08 * height) : int(0.45 * height), width // 2 :]
    poses = pixels[int(0.55 * height) :]
    hues = {tuple(colour // 64) for colour in weights_panel.reshape(-1, 3)}
    assert len(hues) > 8
    for pose in np.array_split(poses, 3, axis=1):
        assert _count_red(pose) > 500


def test_a_file_without_weights_gets_the_rest_pose_alone(picture: Path, tmp_path: Path) -> None:
    draw_rig(_biped_file(tmp_path / "bones.glb", False), tmp_path / "bones.png")
    assert len(_pixels(tmp_path / "bones.png")) < 0.7 * len(_pixels(picture))


def test_the_same_file_gives_the_same_picture(picture: Path, tmp_path: Path) -> None:
    draw_rig(picture.with_suffix(".glb"), tmp_path / "again.png", "A biped")
    assert (tmp_path / "again.png").read_bytes() == picture.read_bytes()


def test_skinning_at_rest_gives_the_bind_pose_whatever_the_nodes_above_do(tmp_path: Path) -> None:
    model = read_rigged_glb(_biped_file(tmp_path / "biped.glb", True))
    positions, _ = skin(model, model.node_worlds)
    np.testing.assert_allclose(positions, model.positions, atol=1e-6)
    np.testing.assert_allclose(model.node_worlds[model.joints, :3, 3], _HEADS, atol=1e-6)


def test_joints_are_found_without_a_skin(tmp_path: Path) -> None:
    model = read_rigged_glb(_biped_file(tmp_path / "bones.glb", False))
    names = [model.node_names[joint] for joint in model.joints]
    assert set(names) >= {name for name, _, _ in _BIPED}
    assert "boxes" not in names
    assert not model.skinned


def test_a_file_with_everything_bound_to_the_root_counts_as_a_skeleton_only(tmp_path: Path) -> None:
    bound = _biped_file(tmp_path / "bound.glb", True, to_the_root=True)
    assert not read_rigged_glb(bound).skinned
    assert read_rigged_glb(_biped_file(tmp_path / "biped.glb", True)).skinned


def test_turning_a_joint_carries_everything_below_it_and_nothing_else(tmp_path: Path) -> None:
    model = read_rigged_glb(_biped_file(tmp_path / "biped.glb", True))
    turns = np.tile(np.eye(3, dtype=np.float32), (len(_BIPED), 1, 1))
    quarter_about_z = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    turns[9] = quarter_about_z
    worlds = posed_worlds(model.node_worlds, model.node_parents, model.joints, turns)
    heads = worlds[model.joints, :3, 3]
    expected = _HEADS.copy()
    expected[10], expected[11] = (0.2, 1.7, 0), (0.2, 2.0, 0)
    np.testing.assert_allclose(heads, expected, atol=1e-5)
    positions, _ = skin(model, worlds)
    np.testing.assert_allclose(positions[11 * 8 : 12 * 8].mean(0), (0.2, 2.0, 0), atol=1e-5)
    np.testing.assert_allclose(positions[: 9 * 8], model.positions[: 9 * 8], atol=1e-5)


def test_legs_and_arms_are_told_apart_by_where_they_end() -> None:
    limbs = {limb.joints: limb for limb in find_limbs(_HEADS, _PARENTS)}
    assert set(limbs) == {(3, 4, 5), (6, 7, 8), (9, 10, 11), (12, 13, 14)}
    assert [limbs[joints].leg for joints in sorted(limbs)] == [True, True, False, False]
    assert [limbs[joints].side for joints in sorted(limbs)] == [1, -1, 1, -1]


def test_poses_are_rotations_and_the_same_for_the_same_seed() -> None:
    first, second = (example_poses(_HEADS, _PARENTS, 3) for _ in range(2))
    assert [pose.caption for pose in first] == ["Stride", "Wave", "Bend"]
    for pose, again in zip(first, second, strict=True):
        np.testing.assert_array_equal(pose.turns, again.turns)
        identity = pose.turns @ pose.turns.transpose(0, 2, 1)
        np.testing.assert_allclose(identity, np.tile(np.eye(3), (15, 1, 1)), atol=1e-5)
        assert (np.abs(pose.turns - np.eye(3)).max((1, 2)) > 0.05).sum() >= 4


def test_a_skeleton_without_limbs_is_only_bent() -> None:
    chain = np.array([[0, y, 0] for y in range(4)], np.float32)
    poses = example_poses(chain, np.array([-1, 0, 1, 2], np.int32), 3)
    assert [pose.caption for pose in poses] == ["Bend"]


def test_the_nearest_face_hides_the_others_whatever_their_order() -> None:
    near, far = 1.0, 2.0
    square = [(0, 0), (10, 0), (10, 10), (0, 10)]
    points = np.array([(*corner, depth) for depth in (far, near) for corner in square], np.float32)
    points[4:, 0] -= 5
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], np.int32)
    for order in (faces, faces[::-1]):
        seen = rasterise(points, np.ascontiguousarray(order), 12, 10)
        np.testing.assert_allclose(seen.depth[:, :5], near, rtol=1e-5)
        np.testing.assert_allclose(seen.depth[:, 5:10], far, rtol=1e-5)
        assert (seen.faces[:, 10:] == -1).all()
        np.testing.assert_allclose(seen.barycentric[seen.faces >= 0].sum(1), 1, atol=1e-5)


def test_faces_outside_the_picture_or_without_area_are_not_drawn() -> None:
    points = np.array(
        [(-9, -9, 1), (-5, -9, 1), (-5, -5, 1), (2, 2, 1), (4, 4, 1), (6, 6, 1)], np.float32
    )
    seen = rasterise(points, np.array([[0, 1, 2], [3, 4, 5]], np.int32), 8, 8)
    assert (seen.faces == -1).all()


@pytest.mark.parametrize(
    "content",
    [b"", b"o cube\n", b"glTF" + struct.pack("<II", 2, 12) + b"\0" * 16],
    ids=["empty", "not glTF", "no JSON"],
)
def test_a_file_that_is_no_glb_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.glb").write_bytes(content)
    with pytest.raises(GlbError):
        draw_rig(tmp_path / "broken.glb", tmp_path / "broken.png")


def test_a_truncated_glb_is_refused(tmp_path: Path) -> None:
    whole = _biped_file(tmp_path / "whole.glb", True).read_bytes()
    (tmp_path / "half.glb").write_bytes(whole[: len(whole) - 3000])
    with pytest.raises(GlbError, match=r"half\.glb"):
        draw_rig(tmp_path / "half.glb", tmp_path / "half.png")
