"""The example character: a small bear on a hike, in a T-pose, made from signed distances.

Axes and units are those of glTF 2.0: +Y up, facing +Z, metres, the ground at y = 0. The body is a
smooth union of ellipsoids and tapered capsules (Quilez, "Distance functions"), meshed by marching
cubes; its texture is painted from the same distances.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import trimesh
from PIL import Image
from skimage.measure import marching_cubes

from services.cli.texture_atlas import bled, painted_spots, unwrap

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int32]
Distance = Callable[[Float], Float]
Point = tuple[float, float, float]

_TEXTURE_SIZE = 1024
_BODY_CELL = 0.021
_PACK_CELL = 0.018
_SEAM = 0.0018

_FUR = "#c98a55"
_CREAM = "#f7e6c8"
_DARK = "#2c2227"
_JACKET = "#2f9c95"
_TROUSERS = "#3d4a6b"
_SHOES = "#e4634b"
_SOLES = "#f4efe4"
_PACK = "#eeb23f"
_LEATHER = "#8a5a3a"
_BLUSH = "#ee9478"
_WHITE = "#ffffff"


@dataclass(frozen=True)
class _Shape:
    """A part before it is cut and painted: its surface and its distance and colour functions."""

    name: str
    distance: Distance
    paint: Callable[[Float], Float]
    vertices: Float
    faces: Int


@dataclass(frozen=True)
class Part:
    """One mesh of the character.

    vertices, normals: (N, 3) float32, world space, metres; uvs: (N, 2) float32, v up;
    faces: (F, 3) int32, counter-clockwise from outside.
    """

    name: str
    vertices: Float
    normals: Float
    uvs: Float
    faces: Int


@dataclass(frozen=True)
class Character:
    """The parts, and the (size, size, 3) uint8 sRGB texture that all of them share."""

    parts: tuple[Part, ...]
    texture: npt.NDArray[np.uint8]


def write_character(path: Path) -> None:
    """Writes the character as .glb, or as .obj with its .mtl and .png beside it.

    The bytes are the same on every call. Raises ValueError for another suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in (".glb", ".obj"):
        raise ValueError(f"the example character is written as .glb or .obj, not as {suffix}")
    scene = _scene(build_character())
    if suffix == ".glb":
        path.write_bytes(scene.export(file_type="glb", include_normals=True))  # type: ignore[no-untyped-call]
        return
    text, materials = trimesh.exchange.obj.export_obj(  # type: ignore[no-untyped-call]
        scene, include_normals=True, return_texture=True, mtl_name=f"{path.stem}.mtl"
    )
    path.write_text(text)
    for name, data in materials.items():
        path.with_name(name).write_bytes(data)


def build_character() -> Character:
    """Shapes, unwraps and paints the character: about 1.7 m tall, 20,000 triangles, 3 parts."""
    shapes = (_body_shape(), _backpack_shape(), _face_shape())
    starts = np.cumsum([0, *(len(shape.vertices) for shape in shapes)])
    vertices = np.concatenate([shape.vertices for shape in shapes])
    normals = np.concatenate([_gradients(shape.distance, shape.vertices) for shape in shapes])
    faces = np.concatenate(
        [shape.faces + start for shape, start in zip(shapes, starts, strict=False)]
    ).astype(np.int32)

    atlas = unwrap(vertices, faces, _TEXTURE_SIZE)
    covered, corners, places = painted_spots(atlas, _TEXTURE_SIZE)
    corners = atlas.sources[corners]
    spots = _floats(np.einsum("nc,ncv->nv", places, vertices[corners]))
    shade = np.einsum("nc,nc->n", places, _openness(vertices, normals)[corners])
    owners = np.searchsorted(starts, corners[:, 0], side="right") - 1
    colours = np.empty_like(spots)
    for index, shape in enumerate(shapes):
        colours[owners == index] = shape.paint(spots[owners == index])
    texture = np.zeros((*covered.shape, 3), np.float32)
    texture[covered] = colours * shade[:, None]

    parts = []
    for shape, start, end in zip(shapes, starts, starts[1:], strict=False):
        own = (faces[:, 0] >= start) & (faces[:, 0] < end)
        used, own_faces = np.unique(atlas.faces[own], return_inverse=True)
        sources = atlas.sources[used]
        parts.append(
            Part(
                name=shape.name,
                vertices=vertices[sources],
                normals=normals[sources],
                uvs=atlas.uvs[used],
                faces=own_faces.reshape(-1, 3).astype(np.int32),
            )
        )
    pixels = (bled(texture, covered).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return Character(tuple(parts), pixels)


def _scene(character: Character) -> trimesh.Scene:
    material = trimesh.visual.material.PBRMaterial(  # type: ignore[no-untyped-call]
        name="Character",
        baseColorFactor=(255, 255, 255, 255),
        baseColorTexture=Image.fromarray(character.texture),
        metallicFactor=0.0,
        roughnessFactor=0.85,
    )
    scene = trimesh.Scene()
    for part in character.parts:
        mesh = trimesh.Trimesh(
            part.vertices,
            part.faces,
            vertex_normals=part.normals,
            visual=trimesh.visual.TextureVisuals(uv=part.uvs, material=material),  # type: ignore[no-untyped-call]
            process=False,
        )
        scene.add_geometry(mesh, node_name=part.name, geom_name=part.name)
    return scene


# --- Shape: distances in metres, negative inside. Points are (n, 3); the body is its own mirror
# image, so its shapes are given at x >= 0 and measured from |x|.


def _floats(values: npt.ArrayLike) -> Float:
    return np.asarray(values, np.float32)


def _ellipsoid(points: Float, centre: Point, radii: Point) -> Float:
    """A bound of the distance, exact to first order at the surface."""
    scaled = (points - _floats(centre)) / _floats(radii)
    inner = np.linalg.norm(scaled, axis=1)
    gradient = np.linalg.norm(scaled / _floats(radii), axis=1)
    distance: Float = inner * (inner - 1) / np.maximum(gradient, 1e-6)
    return distance


def _capsule(points: Float, start: Point, end: Point, radius: float, end_radius: float) -> Float:
    a, axis = _floats(start), _floats(end) - _floats(start)
    along = ((points - a) @ axis / (axis @ axis)).clip(0, 1)
    nearest = a + along[:, None] * axis
    return _floats(
        np.linalg.norm(points - nearest, axis=1) - (radius + along * (end_radius - radius))
    )


def _ring(points: Float, centre: Point, radii: tuple[float, float], tilt: float) -> Float:
    """A torus around the vertical, tilted back by `tilt` radians; radii: ring and tube."""
    x, y, z = (points - _floats(centre)).T
    up, back = y * np.cos(tilt) - z * np.sin(tilt), y * np.sin(tilt) + z * np.cos(tilt)
    return _floats(np.hypot(np.hypot(x, back) - radii[0], up) - radii[1])


def _box(points: Float, centre: Point, half: Point, rounding: float) -> Float:
    outside = np.abs(points - _floats(centre)) - (_floats(half) - rounding)
    beyond = np.linalg.norm(outside.clip(0), axis=1)
    return _floats(beyond + outside.max(1).clip(None, 0) - rounding)


def _union(blend: float, *distances: Float) -> Float:
    """The union of shapes, rounded over `blend` metres where they meet (smooth minimum)."""
    joined = distances[0]
    for distance in distances[1:]:
        overlap = (blend - np.abs(joined - distance)).clip(0) / blend
        joined = np.minimum(joined, distance) - overlap * overlap * blend / 4
    return joined


def _cut(blend: float, first: Float, second: Float) -> Float:
    """The intersection of two shapes, rounded like the union."""
    return -_union(blend, -first, -second)


def _mirrored(points: Float) -> Float:
    return np.column_stack([np.abs(points[:, 0]), points[:, 1], points[:, 2]])


def _head(q: Float) -> Float:
    skull = _union(
        0.08,
        _ellipsoid(q, (0, 1.435, 0), (0.225, 0.195, 0.195)),
        _ellipsoid(q, (0.1, 1.375, 0.05), (0.13, 0.1, 0.125)),
    )
    muzzle = _ellipsoid(q, (0, 1.362, 0.176), (0.09, 0.064, 0.075))
    ear = _ellipsoid(q, (0.172, 1.618, -0.01), (0.082, 0.084, 0.042))
    hollow = _ellipsoid(q, (0.175, 1.622, 0.042), (0.057, 0.06, 0.036))
    return _union(0.04, _union(0.05, skull, muzzle), _cut(0.018, ear, -hollow))


def _neck(q: Float) -> Float:
    return _capsule(q, (0, 1.12, -0.012), (0, 1.3, -0.01), 0.08, 0.085)


def _hand(q: Float) -> Float:
    palm = _ellipsoid(q, (0.645, 1.088, 0.004), (0.07, 0.042, 0.057))
    fingers = [
        _capsule(q, (0.67, 1.088, z), (reach, 1.08, z * 1.35), 0.0265, 0.0225)
        for z, reach in ((-0.037, 0.733), (0.001, 0.752), (0.039, 0.736))
    ]
    thumb = _capsule(q, (0.625, 1.083, 0.035), (0.662, 1.075, 0.097), 0.028, 0.0225)
    return _union(0.024, _union(0.03, palm, thumb), *fingers)


def _jacket(q: Float) -> Float:
    torso = _union(
        0.1,
        _ellipsoid(q, (0, 1.05, -0.012), (0.168, 0.14, 0.122)),
        _ellipsoid(q, (0, 0.905, 0.015), (0.194, 0.165, 0.158)),
    )
    hem = _ring(q * _floats([1, 1, 1.16]), (0, 0.79, 0.014), (0.158, 0.027), 0.0)
    sleeve = _union(
        0.02,
        _capsule(q, (0.12, 1.095, -0.012), (0.36, 1.09, -0.008), 0.083, 0.072),
        _capsule(q, (0.36, 1.09, -0.008), (0.55, 1.088, 0), 0.072, 0.066),
    )
    cuff = _capsule(q, (0.562, 1.088, 0), (0.582, 1.088, 0), 0.07, 0.07)
    collar = _ring(q, (0, 1.187, -0.016), (0.094, 0.034), -0.28)
    hood = _ellipsoid(q, (0, 1.15, -0.115), (0.115, 0.07, 0.055))
    return _union(0.022, _union(0.08, torso, sleeve), hem, cuff, collar, hood)


def _legs(q: Float) -> Float:
    seat = _ellipsoid(q, (0, 0.765, 0.006), (0.168, 0.115, 0.138))
    thigh = _capsule(q, (0.092, 0.7, 0.004), (0.104, 0.4, 0.01), 0.097, 0.083)
    shin = _capsule(q, (0.104, 0.4, 0.01), (0.11, 0.15, -0.008), 0.083, 0.078)
    turnup = _capsule(q, (0.11, 0.15, -0.008), (0.11, 0.172, -0.008), 0.086, 0.086)
    return _union(0.018, _union(0.05, seat, _union(0.01, thigh, shin)), turnup)


def _shoe(q: Float) -> Float:
    ankle = _capsule(q, (0.111, 0.13, -0.01), (0.113, 0.08, 0), 0.064, 0.068)
    foot = _union(
        0.05,
        _ellipsoid(q, (0.115, 0.06, -0.012), (0.075, 0.07, 0.092)),
        _ellipsoid(q, (0.127, 0.054, 0.1), (0.084, 0.075, 0.102)),
    )
    return _cut(0.03, _union(0.05, ankle, foot), -q[:, 1])


_CLOTHES: tuple[tuple[str, Distance], ...] = (
    (_FUR, _head),
    (_FUR, _neck),
    (_FUR, _hand),
    (_JACKET, _jacket),
    (_TROUSERS, _legs),
    (_SHOES, _shoe),
)


def _body(points: Float) -> Float:
    q = _mirrored(points)
    return _union(0.012, *(distance(q) for _, distance in _CLOTHES))


def _backpack(points: Float) -> Float:
    q = _mirrored(points)
    bag = _box(q, (0, 0.965, -0.2), (0.125, 0.155, 0.068), 0.055)
    pocket = _box(q, (0, 0.9, -0.268), (0.09, 0.07, 0.033), 0.028)
    flap = _box(q, (0, 1.07, -0.205), (0.132, 0.064, 0.078), 0.055)
    return _union(0.012, bag, pocket, flap, _bedroll(q))


def _bedroll(q: Float) -> Float:
    return _capsule(q, (0, 1.155, -0.222), (0.14, 1.155, -0.222), 0.05, 0.05)


_EYE: tuple[Point, Point] = ((0.087, 1.445, 0.184), (0.026, 0.036, 0.018))
_NOSE: tuple[Point, Point] = ((0, 1.393, 0.243), (0.031, 0.021, 0.02))


def _face(points: Float) -> Float:
    q = _mirrored(points)
    return np.minimum(_ellipsoid(q, *_EYE), _ellipsoid(q, *_NOSE))


# --- Mesh


def _marched(distance: Distance, half: Point, cell: float) -> tuple[Float, Int]:
    """The zero surface in |x| < half x, 0 <= y < half y, |z| < half z, mirrored at x = 0."""
    right = np.arange(0, half[0] + cell, cell, dtype=np.float32)
    up = np.arange(-1.5 * cell, half[1] + cell, cell, dtype=np.float32)
    near = np.arange(-half[2], half[2] + cell, cell, dtype=np.float32)
    grid = np.stack(np.meshgrid(right, up, near, indexing="ij"), -1)
    field = distance(grid.reshape(-1, 3)).reshape(grid.shape[:3])
    whole = np.concatenate([field[:0:-1], field])
    vertices, faces, _, _ = marching_cubes(  # type: ignore[no-untyped-call]
        whole, 0.0, spacing=(cell, cell, cell), gradient_direction="descent"
    )
    corner = _floats([-right[-1], up[0], near[0]])
    return (vertices + corner).astype(np.float32), faces.astype(np.int32)


def _refined(distance: Distance, vertices: Float, faces: Int) -> tuple[Float, Int]:
    """Evens the triangles out along the surface and brings every vertex onto it."""
    edges = np.unique(np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    count = np.bincount(edges.ravel(), minlength=len(vertices))[:, None]
    for _ in range(6):
        around = np.zeros(vertices.shape)
        np.add.at(around, edges[:, 0], vertices[edges[:, 1]])
        np.add.at(around, edges[:, 1], vertices[edges[:, 0]])
        shift = (around / count - vertices).astype(np.float32)
        normals = _gradients(distance, vertices)
        along_surface = shift - (shift * normals).sum(1, keepdims=True) * normals
        vertices = vertices + 0.6 * along_surface
        vertices = vertices - distance(vertices)[:, None] * normals
    return vertices, faces


def _gradients(distance: Distance, points: Float) -> Float:
    """Unit outward normals (n, 3), from a tetrahedron of distances."""
    step = _floats(0.0015)
    corners = _floats([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    gradient = sum(corner * distance(points + corner * step)[:, None] for corner in corners)
    unit: Float = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-9)
    return unit


def _body_shape() -> _Shape:
    surface = _refined(_body, *_marched(_body, (0.82, 1.76, 0.33), _BODY_CELL))
    return _Shape("Body", _body, _paint_body, *surface)


def _backpack_shape() -> _Shape:
    surface = _refined(_backpack, *_marched(_backpack, (0.3, 1.4, 0.36), _PACK_CELL))
    return _Shape("Backpack", _backpack, _paint_backpack, *surface)


def _face_shape() -> _Shape:
    """Two eyes and a nose."""
    ball = trimesh.creation.icosphere(subdivisions=2)
    (x, y, z), eye = _EYE
    places = [((x, y, z), eye), ((-x, y, z), eye), _NOSE]
    vertices = [ball.vertices * np.array(radii) + np.array(centre) for centre, radii in places]
    faces = [ball.faces + index * len(ball.vertices) for index in range(len(places))]
    return _Shape(
        "Face",
        _face,
        _paint_face,
        _floats(np.concatenate(vertices)),
        np.concatenate(faces).astype(np.int32),
    )


def _openness(vertices: Float, normals: Float) -> Float:
    """(N,) in [0.55, 1]: how little of the surroundings shades a vertex (Evans, 2006)."""
    closed = np.zeros(len(vertices), np.float32)
    for step in (0.015, 0.035, 0.07, 0.12):
        probe = vertices + normals * step
        free = np.minimum(_body(probe), _backpack(probe))
        closed += (step - free).clip(0) / step * 0.16
    return (1 - closed).clip(0.55, 1)


# --- Paint: sRGB colours (n, 3) in [0, 1] at points (n, 3).


def _colour(code: str) -> Float:
    return _floats([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _brushed(colours: Float, code: str, distance: Float, edge: float = 0.0015) -> Float:
    """Paint over where distance is negative, soft over `edge` metres."""
    cover = (0.5 - distance / (2 * edge)).clip(0, 1)[:, None]
    return _floats(colours * (1 - cover) + _colour(code) * cover)


def _paint_body(points: Float) -> Float:
    q = _mirrored(points)
    x, y, z = q.T
    layers = np.stack([distance(q) for _, distance in _CLOTHES])
    share = np.exp((layers.min(0) - layers) / _SEAM)
    share /= share.sum(0)
    colours: Float = share.T @ np.stack([_colour(code) for code, _ in _CLOTHES])
    off_head, off_jacket, off_shoe = (
        np.where(layers.argmin(0) == layer, -1, 1) for layer in (0, 3, 5)
    )

    mask = _ellipsoid(q, (0, 1.357, 0.21), (0.106, 0.076, 0.13))
    colours = _brushed(colours, _CREAM, np.maximum(mask, off_head), 0.003)
    brow = _ellipsoid(q, (0.083, 1.524, 0.155), (0.026, 0.013, 0.06))
    colours = _brushed(colours, _CREAM, np.maximum(brow, off_head), 0.003)
    inner_ear = _ellipsoid(q, (0.175, 1.622, 0.036), (0.054, 0.057, 0.05))
    colours = _brushed(colours, _CREAM, np.maximum(inner_ear, off_head), 0.003)
    blush = _ellipsoid(q, (0.152, 1.375, 0.14), (0.036, 0.024, 0.07))
    soft = (0.5 - blush / 0.02).clip(0, 0.6)[:, None]
    colours = colours * (1 - soft) + _colour(_BLUSH) * soft
    curve = np.abs(np.hypot(x - 0.022, y - 1.36) - 0.022) - 0.0031
    smile = np.maximum.reduce([curve, y - 1.357, 0.18 - z])
    colours = _brushed(colours, _DARK, smile)
    lip = np.maximum.reduce([x - 0.0028, np.abs(y - 1.366) - 0.013, 0.18 - z])
    colours = _brushed(colours, _DARK, lip)

    zip_line = np.maximum.reduce([x - 0.006, -z, y - 1.23, off_jacket])
    colours = _brushed(colours, _CREAM, zip_line)
    bands = np.maximum(np.abs(x - 0.43) - 0.024, off_jacket)
    colours = _brushed(colours, _CREAM, bands)
    straps = np.maximum.reduce(
        [np.abs(x - 0.108) - 0.021, 0.87 - y, 0.03 - z - (y - 1.08).clip(0) * 20, off_jacket]
    )
    colours = _brushed(colours, _LEATHER, straps)
    colours = _brushed(colours, _SOLES, np.maximum(y - 0.034, off_shoe))
    laces = np.maximum.reduce(
        [
            np.abs((z - 0.052) % 0.03 - 0.015) - 0.0055,
            np.abs(z - 0.082) - 0.043,
            np.abs(x - 0.122) - 0.03,
            0.08 - y,
            off_shoe,
        ]
    )
    return _brushed(colours, _SOLES, laces)


def _paint_backpack(points: Float) -> Float:
    q = _mirrored(points)
    x, y, z = q.T
    colours = np.tile(_colour(_PACK), (len(points), 1))
    bedroll = _bedroll(q) - 0.002
    colours = _brushed(colours, _SHOES, bedroll)
    behind = z + 0.2
    lashing = np.abs(x - 0.075) - 0.012
    colours = _brushed(colours, _LEATHER, np.maximum(bedroll, lashing))
    strap = np.maximum.reduce([lashing, 0.985 - y, y - 1.12, behind])
    colours = _brushed(colours, _LEATHER, strap)
    flap_edge = np.maximum(np.abs(y - 1.01) - 0.004, behind - 0.05)
    return _brushed(colours, _LEATHER, flap_edge)


def _paint_face(points: Float) -> Float:
    colours = np.tile(_colour(_DARK), (len(points), 1))
    x, y, _ = points.T
    # Both eyes are lit from the same side, so these spots are no mirror images.
    for side in (-1, 1):
        spot = np.hypot(x - side * _EYE[0][0] + 0.007, y - _EYE[0][1] - 0.013) - 0.0078
        colours = _brushed(colours, _WHITE, spot, 0.001)
    shine = np.hypot((x + 0.007) / 2, y - _NOSE[0][1] - 0.01) - 0.004
    return _brushed(colours, _WHITE, shine, 0.001)
