"""What the neural engine takes from its confined steps and from the network."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from services.inference.limited_process import StepError
from services.inference.unirig_engine import load_arrays, save_joints
from services.inference.unirig_network.tokenizer import encode_skeleton
from services.inference.workplace import Workplace


def test_arrays_of_a_step_are_read_by_name(place: Workplace) -> None:
    points = np.eye(3, dtype=np.float32)
    np.savez(place.folder / "a.npz", points=points, normals=-points)
    normals, again = load_arrays(place.folder / "a.npz", place, "normals", "points")
    assert np.array_equal(normals, -points)
    assert np.array_equal(again, points)


def compressed(path: Path) -> None:
    np.savez_compressed(path, points=np.zeros((1_000_000, 3)))


def with_objects(path: Path) -> None:
    np.savez(path, points=np.array([print], dtype=object))


def without_the_name(path: Path) -> None:
    np.savez(path, other=np.zeros(3))


def no_archive(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 and no more")


def with_a_shape_that_is_not_there(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**5, 3), }\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "points.npy",
            b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header,
        )


@pytest.mark.parametrize(
    "leave",
    [compressed, with_objects, without_the_name, no_archive, with_a_shape_that_is_not_there],
)
def test_a_file_that_a_step_should_not_have_left_ends_the_job(
    place: Workplace, leave: Callable[[Path], None]
) -> None:
    leave(place.folder / "a.npz")
    with pytest.raises(StepError) as failure:
        load_arrays(place.folder / "a.npz", place, "points")
    assert failure.value.code == "PROCESSING_FAILED"


def test_a_link_to_a_file_elsewhere_is_not_read(place: Workplace, tmp_path: Path) -> None:
    np.savez(tmp_path / "secret.npz", points=np.zeros(3))
    (place.folder / "a.npz").symlink_to(tmp_path / "secret.npz")
    with pytest.raises(StepError):
        load_arrays(place.folder / "a.npz", place, "points")


def test_tokens_become_joints_with_names(tmp_path: Path) -> None:
    joints = np.array([[0, 0, 0], [0, 0, 0.5], [0.25, 0, 0.5]], dtype=np.float32)
    tokens = encode_skeleton(joints, [-1, 0, 1], "articulationxl")
    save_joints(tmp_path / "joints.npz", np.array(tokens, dtype=np.int32))
    with np.load(tmp_path / "joints.npz", allow_pickle=False) as saved:
        assert np.abs(saved["joints"] - joints).max() < 0.01
        assert saved["parents"].tolist() == [-1, 0, 1]
        assert saved["names"].tolist() == ["bone_0", "bone_1", "bone_2"]


def test_tokens_that_are_no_skeleton_say_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="another seed") as failure:
        save_joints(tmp_path / "joints.npz", np.array([257, 266, 258], dtype=np.int32))
    assert failure.value.code == "PROCESSING_FAILED"
