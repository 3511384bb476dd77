"""What stored files are called, and what kind of file a name tells of."""

from collections.abc import Iterator
from itertools import count

_MAX_NAME_BYTES = 255
_MAX_EXTENSION_BYTES = 16
_MIME_TYPES = {
    "glb": "model/gltf-binary",
    "obj": "model/obj",
    "vrm": "model/gltf-binary",
}


def numbered_names(filename: str) -> Iterator[str]:
    """The sanitised name, then "model-2.obj", "model-3.obj" and on without end.

    Each is sanitised too: the stem gives way where the number would take it past 255 bytes.
    """
    yield filename
    stem, dot, extension = filename.rpartition(".")
    if not stem or len(extension.encode()) > _MAX_EXTENSION_BYTES:
        stem, dot, extension = filename, "", ""
    for number in count(2):
        ending = f"-{number}{dot}{extension}"
        room = _MAX_NAME_BYTES - len(ending.encode())
        yield stem.encode()[:room].decode("utf-8", "ignore") + ending


def mime_type_of(filename: str) -> str:
    """The media type by the extension; FBX has none of its own."""
    extension = filename.rpartition(".")[2].lower()
    return _MIME_TYPES.get(extension, "application/octet-stream")
