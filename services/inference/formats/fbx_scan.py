"""A look into an FBX file before Blender opens it: is it whole, and how large is its mesh?

Binary FBX is a tree of records, each with the offset of its end (Blender developers' "FBX binary
file format specification", code.blender.org, 2013). Nothing is decompressed here.
"""

import struct
from pathlib import Path

from services.inference.formats.mesh_checks import refuse_triangles
from services.inference.formats.program_output import invalid_mesh

_BINARY_MAGIC = b"Kaydara FBX Binary  \x00\x1a\x00"
_PARENTS = (b"Objects", b"Geometry", b"Model")


def scan_fbx(path: Path, max_triangles: int) -> None:
    """Raises Refusal for a file that is no FBX, is cut off, or has too many triangles."""
    data = path.read_bytes()
    if not data.startswith(_BINARY_MAGIC):
        if b"FBX" not in data[:4096] and b"Objects:" not in data:
            raise invalid_mesh("The file is not an FBX file.")
        return
    if len(data) < 27:
        raise invalid_mesh("The FBX file is truncated.")
    try:
        corners = _polygon_corners(data)
    except (struct.error, IndexError):
        raise invalid_mesh("The FBX file is truncated or damaged.") from None
    # A polygon of n corners is n - 2 triangles, so there are at least a third as many.
    refuse_triangles(corners // 3, max_triangles)


def _polygon_corners(data: bytes) -> int:
    (version,) = struct.unpack_from("<I", data, 23)
    header = "<QQQB" if version >= 7500 else "<IIIB"
    size = struct.calcsize(header)
    corners = 0
    ends = [len(data)]
    offset = 27
    while True:
        if offset + size > ends[-1]:
            if len(ends) == 1:
                raise invalid_mesh("The FBX file is truncated: its last record is missing.")
            offset = ends.pop()
            continue
        end, _, length, name_length = struct.unpack_from(header, data, offset)
        name = data[offset + size : offset + size + name_length]
        first = offset + size + name_length
        if end == 0:
            if len(ends) == 1:
                return corners  # the footer follows
            offset = ends.pop()
        elif end > ends[-1] or end <= offset:
            raise invalid_mesh("The FBX file is truncated or damaged.")
        elif name in _PARENTS:
            ends.append(end)
            offset = first + length
        else:
            if name == b"PolygonVertexIndex" and data[first : first + 1] in (b"i", b"l"):
                corners += struct.unpack_from("<I", data, first + 1)[0]
            offset = end
