"""Whether bytes are the 3D format that their name says, found while they stream by.

Checks the container, not the content: an asset that passes may still be broken inside.
"""

import re
import struct
from typing import Protocol

SUPPORTED = "Supported: .obj, .fbx, .glb, .vrm"


class FormatError(ValueError):
    """The bytes are not that format; the text says why."""


class Sniffer(Protocol):
    """Sees every byte once, in order. Both methods raise FormatError."""

    def feed(self, chunk: bytes) -> None: ...

    def finish(self) -> None: ...


class Glb:
    """Binary glTF 2.0: the 12-byte header, then a JSON chunk (glTF 2.0 specification, 4.4)."""

    _JSON = 0x4E4F534A
    JSON_START = 20

    def __init__(self) -> None:
        self._head = b""
        self._length = 0
        self._received = 0
        # Bytes of the JSON chunk; 0 until the headers are here.
        self.json_length = 0

    def feed(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if len(self._head) < self.JSON_START:
            self._head += chunk[: self.JSON_START - len(self._head)]
            if self._head[:4] != b"glTF"[: len(self._head)]:
                raise FormatError("it does not begin as binary glTF")
            if len(self._head) == self.JSON_START:
                self._read_head()
        if self._length and self._received > self._length:
            raise FormatError("it is longer than its header says")

    def finish(self) -> None:
        if self._received < self.JSON_START or self._received < self._length:
            raise FormatError("it ends early")

    def _read_head(self) -> None:
        _, version, self._length, self.json_length, kind = struct.unpack("<4sIIII", self._head)
        if version != 2:
            raise FormatError(f"it is glTF version {version}, not 2")
        if kind != self._JSON or self.json_length > self._length - self.JSON_START:
            raise FormatError("its first chunk is not JSON")


class Vrm:
    """A GLB whose JSON names a VRM extension: "VRM" (0.x) or "VRMC_vrm" (1.0)."""

    _EXTENSION = re.compile(rb'"VRM(?:C_vrm)?"')
    _OVERLAP = len(b'"VRMC_vrm"') - 1

    def __init__(self) -> None:
        self._glb = Glb()
        self._position = 0
        self._tail = b""
        self._found = False

    def feed(self, chunk: bytes) -> None:
        self._glb.feed(chunk)
        json_end = Glb.JSON_START + self._glb.json_length
        if not self._found and (self._position < json_end or not self._glb.json_length):
            # Before the headers are whole, what came of them is too short to hold the name.
            window = self._tail + chunk[: max(0, json_end - self._position)]
            self._found = self._EXTENSION.search(window) is not None
            self._tail = window[-self._OVERLAP :]
        self._position += len(chunk)

    def finish(self) -> None:
        self._glb.finish()
        if not self._found:
            raise FormatError("it has no VRM extension")


class Fbx:
    """FBX, binary (by its 21-byte magic) or ASCII (by its first lines)."""

    _BINARY = b"Kaydara FBX Binary  \0"
    _ASCII = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*;\s*FBX|FBXHeaderExtension")
    _HEAD_BYTES = 4096

    def __init__(self) -> None:
        self._head = b""

    def feed(self, chunk: bytes) -> None:
        if len(self._head) == self._HEAD_BYTES:
            return
        self._head += chunk[: self._HEAD_BYTES - len(self._head)]
        if len(self._head) == self._HEAD_BYTES:
            self._check()

    def finish(self) -> None:
        if len(self._head) < self._HEAD_BYTES:
            self._check()

    def _check(self) -> None:
        if not self._head.startswith(self._BINARY) and not self._ASCII.search(self._head):
            raise FormatError("it does not begin as FBX")


class Obj:
    """Wavefront OBJ: text with at least one vertex line and one face line."""

    _VERTEX = re.compile(rb"[\r\n][ \t]*v[ \t]+\S")
    _FACE = re.compile(rb"[\r\n][ \t]*f[ \t]+-?\d")
    # The longest beginning of a line that is still recognised across two chunks.
    _OVERLAP = 64

    def __init__(self) -> None:
        self._tail = b"\n"
        self._vertex = False
        self._face = False

    def feed(self, chunk: bytes) -> None:
        if b"\0" in chunk:
            raise FormatError("it is not text")
        if self._vertex and self._face:
            return
        window = self._tail + chunk
        if self._tail == b"\n":
            window = window.replace(b"\n\xef\xbb\xbf", b"\n", 1)
        self._vertex = self._vertex or self._VERTEX.search(window) is not None
        self._face = self._face or self._FACE.search(window) is not None
        self._tail = window[-self._OVERLAP :]

    def finish(self) -> None:
        if not self._vertex:
            raise FormatError("it has no vertices")
        if not self._face:
            raise FormatError("it has no faces")


_SNIFFERS: dict[str, type[Sniffer]] = {".fbx": Fbx, ".glb": Glb, ".obj": Obj, ".vrm": Vrm}


def sniffer_for(filename: str) -> Sniffer | None:
    """The check for the name's extension, in any case; None where it is not supported."""
    _, dot, extension = filename.rpartition(".")
    kind = _SNIFFERS.get(dot + extension.lower())
    return kind() if kind else None
