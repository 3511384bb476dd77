"""Wavefront OBJ: reads a model, and writes and reads a skeleton beside it.

A skeleton is an object of its own behind the model, in the element types of the OBJ specification
(Alias|Wavefront "Object Files", sections "Elements" and "Grouping"), so that every reader opens the
file as a mesh with some lines:

    o skeleton
    v 0 0.9 0           one vertex for each joint, in the skeleton's order
    v 0 1.2 0
    v 0 1.5 0           then one for the tip of each bone that ends at no joint's head
    g hips
    p 1                 a group for each joint, named after it: the root is a point,
    g spine
    l 1 2               every other joint the line from its parent to itself,
    l 2 3               and, where the bone's tail is not given by that, the line to its tail

A joint without a second line has its tail at the head of its first child (a leaf always has
one). Blanks and other special characters in names are percent-encoded, as a blank separates
groups. Numbers have nine digits, which single precision survives without loss.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from services.inference.formats.mesh_checks import checked_mesh, refuse_triangles
from services.inference.formats.program_output import invalid_mesh
from services.inference.geometry import Float, Mesh, Skeleton

SKELETON_OBJECT = "skeleton"
_REWRITTEN = "Another program rewrote the skeleton in the file; its joints cannot be told any more."


@dataclass(frozen=True)
class ObjModel:
    """What an OBJ file holds.

    mesh: the vertices that faces use, in the file's order, axes as they are.
    vertices: (N,) int32, for each `v` line its index in mesh.vertices, -1 where no face uses it.
    skeleton: ours, where the file has one. notes: for the user.
    """

    mesh: Mesh
    vertices: npt.NDArray[np.int32]
    skeleton: Skeleton | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Lines:
    """The lines of a file by kind. Each mark and part says from which face on it holds.

    vertices, faces: lines without their keyword. marks: (first face, vertices so far).
    objects, groups: (first face, name).
    """

    vertices: list[bytes]
    faces: list[bytes]
    marks: list[tuple[int, int]]
    objects: list[tuple[int, str]]
    groups: list[tuple[int, str]]
    skeleton: "_SkeletonLines | None"


@dataclass(frozen=True)
class _SkeletonLines:
    """The skeleton object: where it starts in the file, its first vertex, its elements."""

    line: int
    first_vertex: int
    first_face: int
    elements: list[tuple[bytes, bytes]]


def read_obj(path: Path, max_triangles: int) -> ObjModel:
    """Raises Refusal for anything that is not a sound model."""
    return parse_obj(path.read_bytes(), max_triangles)


def parse_obj(data: bytes, max_triangles: int) -> ObjModel:
    lines = _sorted_lines(data)
    positions = _numbers(lines.vertices)
    faces, parts, names = _faces(lines, len(positions), max_triangles)
    used = np.zeros(len(positions), bool)
    used[faces] = True
    place = np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)
    mesh = checked_mesh(positions[used], place[faces], parts, names)
    if lines.skeleton is None:
        return ObjModel(mesh, place, None, ())
    skeleton = _skeleton(lines.skeleton, positions)
    return ObjModel(mesh, place, skeleton, () if skeleton else (_REWRITTEN,))


def _sorted_lines(data: bytes) -> _Lines:
    found = _Lines([], [], [], [], [], None)
    skeleton: _SkeletonLines | None = None
    for number, raw in enumerate(_unfolded(data).split(b"\n")):
        key, _, rest = raw.replace(b"\t", b" ").strip().partition(b" ")
        if key == b"v":
            found.vertices.append(rest)
        elif key == b"f":
            if not found.marks or found.marks[-1][1] != len(found.vertices):
                found.marks.append((len(found.faces), len(found.vertices)))
            found.faces.append(rest)
        elif key == b"o":
            skeleton = None
            if rest.strip() == SKELETON_OBJECT.encode():
                skeleton = _SkeletonLines(number, len(found.vertices), len(found.faces), [])
            found.objects.append((len(found.faces), _name(rest)))
        elif skeleton is not None and key in (b"g", b"p", b"l"):
            skeleton.elements.append((key, rest))
        elif key == b"g":
            found.groups.append((len(found.faces), _name(rest)))
    if skeleton is not None and skeleton.first_face < len(found.faces):
        skeleton = None  # an object with faces is a part of the model, whatever its name
    return _Lines(
        *(found.vertices, found.faces, found.marks, found.objects, found.groups), skeleton
    )


def _unfolded(data: bytes) -> bytes:
    """With every line that a backslash continues in one piece."""
    return data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")


def _name(rest: bytes) -> str:
    return rest.strip().decode("utf-8", "replace")


def _numbers(lines: list[bytes]) -> Float:
    """(N, 3) of vertex lines; a fourth number (w) or colours behind are left out."""
    if not lines:
        raise invalid_mesh("The OBJ file has no vertices.")
    width = len(lines[0].split())
    try:
        rows = np.fromstring(b" ".join(lines), dtype=np.float64, sep=" ")
        if width < 3 or rows.size != width * len(lines):
            rows = np.array([[float(x) for x in line.split()[:3]] for line in lines])
            width = 3
        rows = rows.reshape(len(lines), width)[:, :3]
    except ValueError:
        raise invalid_mesh("The OBJ file is damaged: a vertex is not three numbers.") from None
    with np.errstate(over="ignore"):
        return rows.astype(np.float32)


def _faces(
    lines: _Lines, vertex_count: int, max_triangles: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], tuple[str, ...]]:
    """Triangles (F, 3) as indices from 0, each one's part (F,), and the parts' names."""
    if not lines.faces:
        raise invalid_mesh("The OBJ file has no faces: there is no surface to rig.")
    text = b" ".join(lines.faces)
    if b"/" in text:
        text = re.sub(rb"/[^ ]*", b"", text)
    sizes = np.fromiter((len(line.split()) for line in lines.faces), np.int64, len(lines.faces))
    refuse_triangles(int(np.maximum(sizes - 2, 0).sum()), max_triangles)
    corners = np.fromstring(text, dtype=np.int64, sep=" ")
    if corners.size != sizes.sum():
        raise invalid_mesh("The OBJ file is damaged: a face is not a row of vertex numbers.")
    if (corners < 0).any():
        starts = np.array([start for start, _ in lines.marks] + [len(sizes)])
        so_far = np.repeat([count for _, count in lines.marks], np.diff(starts))
        corners = np.where(corners < 0, corners + 1 + np.repeat(so_far, sizes), corners)
    if corners.min() < 1 or corners.max() > vertex_count:
        raise invalid_mesh("The OBJ file is damaged: a face refers to a vertex it does not have.")
    face_parts, names = _parts(lines, len(sizes))
    triangles, owners = _fans(corners - 1, sizes)
    return triangles, face_parts[owners], names


def _fans(
    corners: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Polygons as fans of triangles: (F, 3), and the polygon of each triangle (F,)."""
    starts = np.cumsum(sizes) - sizes
    triangles, owners = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    for size in np.unique(sizes[sizes >= 3]):
        polygons = np.flatnonzero(sizes == size)
        rows = corners[starts[polygons, None] + np.arange(size)]
        fan = np.stack(
            [np.repeat(rows[:, :1], size - 2, axis=1), rows[:, 1:-1], rows[:, 2:]], axis=2
        )
        triangles.append(fan.reshape(-1, 3))
        owners.append(np.repeat(polygons, size - 2))
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(triangles)[order].astype(np.int32), owner[order]


def _parts(lines: _Lines, face_count: int) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    """The part of each polygon: by object, or by group where the file has no objects."""
    named = [entry for entry in lines.objects if entry[0] < face_count] or lines.groups
    entries = [(0, "model"), *named]
    starts = [start for start, _ in entries] + [face_count]
    sizes = np.diff(starts)
    names = list(dict.fromkeys(name for (_, name), n in zip(entries, sizes, strict=True) if n))
    number = {name: index for index, name in enumerate(names)}
    indices = [number.get(name, 0) for _, name in entries]
    return np.repeat(np.array(indices, np.int32), sizes), tuple(names)


def _skeleton(lines: _SkeletonLines, positions: Float) -> Skeleton | None:
    """None where the object is not of the form described above (an editor rewrote it)."""
    names: list[str] = []
    joints: list[int] = []
    parents: list[int] = []
    tails: dict[int, int] = {}
    opened = False
    try:
        for key, rest in lines.elements:
            vertices = [int(v) - 1 for v in rest.split()] if key != b"g" else []
            if key == b"g":
                names.append(unquote(_name(rest)))
                opened = True
            elif opened:
                joints.append(vertices[-1])
                parents.append(joints.index(vertices[0]) if key == b"l" else -1)
                opened = False
            else:
                tails[joints.index(vertices[0])] = vertices[1]
        heads = positions[joints]
        for joint in range(len(joints)):
            if joint not in tails:
                tails[joint] = joints[parents.index(joint)]
        ends = positions[[tails[joint] for joint in range(len(joints))]]
    except (ValueError, IndexError):
        return None
    whole = len(names) == len(joints) == len(set(names)) and parents[:1] == [-1]
    if not whole or -1 in parents[1:] or min(joints) < lines.first_vertex:
        return None
    return Skeleton(tuple(names), np.array(parents, np.int32), heads, ends)


def write_obj(path: Path, mesh: Mesh, skeleton: Skeleton) -> None:
    """The mesh, one object a part, and the skeleton."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"v {x:.9g} {y:.9g} {z:.9g}\n" for x, y, z in mesh.vertices.tolist())
        for part, name in enumerate(mesh.part_names):
            file.write(f"o {' '.join(name.split()) or f'part_{part}'}\n")
            faces = mesh.faces[mesh.parts == part] + 1
            file.writelines(f"f {a} {b} {c}\n" for a, b, c in faces.tolist())
        file.writelines(_skeleton_text(skeleton, len(mesh.vertices)))


def add_skeleton_to_obj(asset: bytes, path: Path, skeleton: Skeleton) -> None:
    """A user's own OBJ, byte for byte, and the skeleton; one that was there is replaced."""
    lines = _sorted_lines(asset)
    vertices = len(lines.vertices)
    if lines.skeleton is not None:
        asset = b"\n".join(_unfolded(asset).split(b"\n")[: lines.skeleton.line])
        vertices = lines.skeleton.first_vertex
    with path.open("wb") as file:
        file.write(asset.rstrip(b"\n") + b"\n")
        file.writelines(line.encode() for line in _skeleton_text(skeleton, vertices))


def _skeleton_text(skeleton: Skeleton, first: int) -> Iterable[str]:
    count = len(skeleton.names)
    parents = skeleton.parents.tolist()
    ends, tips = _ends(skeleton)
    yield f"o {SKELETON_OBJECT}\n"
    for x, y, z in np.vstack([skeleton.heads, tips]).tolist():
        yield f"v {x:.9g} {y:.9g} {z:.9g}\n"
    for joint in range(count):
        yield f"g {quote(skeleton.names[joint], safe=_PLAIN)}\n"
        own = first + 1 + joint
        yield f"l {first + 1 + parents[joint]} {own}\n" if joint else f"p {own}\n"
        end = ends[joint]
        if end is not None:
            yield f"l {own} {first + 1 + end}\n"


def _ends(skeleton: Skeleton) -> tuple[list[int | None], Float]:
    """Each joint's tail as a vertex of the object, None where it is its first child; the tips."""
    parents = skeleton.parents.tolist()
    ends: list[int | None] = []
    tips: list[Float] = []
    for joint, tail in enumerate(skeleton.tails):
        children = [c for c, parent in enumerate(parents) if parent == joint]
        at = next((c for c in children if (skeleton.heads[c] == tail).all()), None)
        if at is None:
            at = len(parents) + len(tips)
            tips.append(tail)
        ends.append(None if children and at == children[0] else at)
    return ends, np.array(tips, np.float32).reshape(-1, 3)


# What quote() leaves as it is, besides letters and digits of ASCII.
_PLAIN = "!$&'()*+,-./:;<=>?@[]^_`{|}~"
