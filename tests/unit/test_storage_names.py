"""The names of stored files."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.paths import sanitise_filename
from services.storage.names import mime_type_of, numbered_names


def first_names(filename: str, count: int = 3) -> list[str]:
    return list(islice(numbered_names(filename), count))


@pytest.mark.parametrize(
    ("filename", "names"),
    [
        ("model.obj", ["model.obj", "model-2.obj", "model-3.obj"]),
        ("a.tar.gz", ["a.tar.gz", "a.tar-2.gz", "a.tar-3.gz"]),
        ("model", ["model", "model-2", "model-3"]),
        ("no.extension as long as this", ["no.extension as long as this"] * 1),
    ],
)
def test_a_taken_name_gets_a_number_before_its_extension(filename: str, names: list[str]) -> None:
    assert first_names(filename, len(names)) == names


def test_the_stem_gives_way_to_the_number() -> None:
    name = "ä" * 125 + ".obj"
    assert len(name.encode()) == 254
    assert first_names(name, 2)[1] == "ä" * 124 + "-2.obj"


@given(st.text(max_size=300), st.integers(min_value=1, max_value=12))
def test_every_numbered_name_is_sanitised_and_new(name: str, count: int) -> None:
    names = first_names(sanitise_filename(name), count)
    assert names == [sanitise_filename(each) for each in names]
    assert len(set(names)) == count
    assert all(len(each.encode()) <= 255 for each in names)


@pytest.mark.parametrize(
    ("filename", "mime_type"),
    [
        ("model.obj", "model/obj"),
        ("MODEL.GLB", "model/gltf-binary"),
        ("avatar.vrm", "model/gltf-binary"),
        ("model.fbx", "application/octet-stream"),
        ("arrays.npz", "application/octet-stream"),
    ],
)
def test_the_media_type_follows_the_extension(filename: str, mime_type: str) -> None:
    assert mime_type_of(filename) == mime_type
