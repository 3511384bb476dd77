"""The formats that uploads may have, told by their bytes as these stream by."""

import json
import struct
from pathlib import Path

import pytest

from services.gateway.asset_formats import FormatError, sniffer_for

OBJ = b"# a comment\no thing\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
BINARY_FBX = b"Kaydara FBX Binary  \x00\x1a\x00" + struct.pack("<I", 7400) + bytes(200)
ASCII_FBX = b"; FBX 7.4.0 project file\n; ---\nFBXHeaderExtension:  {\n}\n"


def glb(document: object, tail: bytes = b"") -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    length = 20 + len(text) + len(tail)
    return struct.pack("<4sIIII", b"glTF", 2, length, len(text), 0x4E4F534A) + text + tail


GLB = glb({"asset": {"version": "2.0"}}, b"\x04\0\0\0BIN\0\0\0\0\0")
VRM_0 = glb({"extensions": {"VRM": {}}, "filler": "x" * 300})
VRM_1 = glb({"filler": "x" * 300, "extensions": {"VRMC_vrm": {}}})


def check(name: str, content: bytes, size: int = 2**16) -> None:
    sniffer = sniffer_for(name)
    assert sniffer is not None
    for start in range(0, len(content), size):
        sniffer.feed(content[start : start + size])
    sniffer.finish()


@pytest.mark.parametrize("size", [1, 2, 5, 19, 21, 300, 2**16])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.obj", OBJ),
        ("a.obj", b"\xef\xbb\xbf" + OBJ),
        ("a.obj", OBJ.replace(b"\n", b"\r\n")),
        ("a.obj", b"v\t0 0 0\n  v 1 0 0\nv 0 1 0\nf\t-3/1 -2/1 -1/1"),
        ("A.OBJ", OBJ),
        ("a.fbx", BINARY_FBX),
        ("a.fbx", BINARY_FBX + bytes(10_000)),
        ("a.fbx", ASCII_FBX),
        ("a.fbx", b"\n\n;comment\n" + ASCII_FBX + b"x" * 10_000),
        ("a.glb", GLB),
        ("a.vrm", VRM_0),
        ("a.vrm", VRM_1),
        ("a.b.glb", VRM_1),
    ],
)
def test_a_good_file_passes_however_it_is_cut(name: str, content: bytes, size: int) -> None:
    check(name, content, size)


@pytest.mark.parametrize("size", [1, 19, 21, 2**16])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.obj", b"", "no vertices"),
        ("a.obj", b"hello world, f 1 2 3\n", "no vertices"),
        ("a.obj", b"vn 0 0 1\nvt 0 0\nf 1 2 3\n", "no vertices"),
        ("a.obj", b"v 0 0 0\nfoo 1\n#f 1 2 3\n", "no faces"),
        ("a.obj", OBJ + b"\0", "not text"),
        ("a.obj", GLB, "not text"),
        ("a.fbx", b"", "does not begin as FBX"),
        ("a.fbx", OBJ, "does not begin as FBX"),
        ("a.fbx", b"Kaydara FBX Binary", "does not begin as FBX"),
        ("a.fbx", bytes(10_000) + ASCII_FBX, "does not begin as FBX"),
        ("a.glb", b"", "ends early"),
        ("a.glb", b"glTF", "ends early"),
        ("a.glb", GLB[:-1], "ends early"),
        ("a.glb", GLB + b"x", "longer than its header says"),
        ("a.glb", OBJ, "does not begin as binary glTF"),
        ("a.glb", GLB.replace(b"glTF\x02", b"glTF\x01"), "version 1"),
        ("a.glb", GLB.replace(b"JSON", b"NOSJ"), "not JSON"),
        ("a.glb", struct.pack("<4sIIII", b"glTF", 2, 24, 2**31, 0x4E4F534A) + b"{}  ", "not JSON"),
        ("a.glb", struct.pack("<4sIIII", b"glTF", 2, 0, 0, 0x4E4F534A), "not JSON|longer"),
        ("a.vrm", GLB, "no VRM extension"),
        ("a.vrm", glb({"asset": {}}, b'"VRM" "VRMC_vrm"'), "no VRM extension"),
        ("a.vrm", OBJ, "does not begin as binary glTF"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(
    name: str, content: bytes, reason: str, size: int
) -> None:
    with pytest.raises(FormatError, match=reason):
        check(name, content, size)


@pytest.mark.parametrize("name", ["a.txt", "a", "obj", "a.obj.exe", "a.gltf", "", "a.", ".ob j"])
def test_other_extensions_are_not_supported(name: str) -> None:
    assert sniffer_for(name) is None


def test_a_wrong_beginning_is_refused_before_the_end() -> None:
    sniffer = sniffer_for("a.glb")
    assert sniffer is not None
    with pytest.raises(FormatError):
        sniffer.feed(b"PK")


def test_models_by_others_pass(models: Path) -> None:
    seen = [path for path in models.iterdir() if path.suffix in (".obj", ".fbx", ".glb", ".vrm")]
    assert seen
    for path in seen:
        check(path.name, path.read_bytes())
