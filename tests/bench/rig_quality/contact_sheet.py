"""Many rigs on one page: bones, weights and three poses of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.colors import hsv_to_rgb
from PIL import Image, ImageDraw, ImageFont

from services.cli.poses import example_poses
from services.cli.raster import rasterise
from services.inference.geometry import Mesh, Skeleton, SkinWeights
from tests.bench.rig_quality.metrics import Points, dense_weights, posed, random_poses

_TILE = 170
_TITLE = 18
_SUPERSAMPLING = 2
_COLOURS = 96
_POSES = 3
_POSE_SEED = 7
_YAW, _PITCH = np.radians([32, 12])
_PAPER, _CLAY = 0.97, 0.85
_INK, _OURS, _REFERENCE = "#20242c", "#e8590c", "#1c5fd4"
_LIGHT = np.array([-0.45, 0.65, 0.62]) / np.linalg.norm([-0.45, 0.65, 0.62])


@dataclass(frozen=True)
class SheetRow:
    """One model. skin: for our skeleton. reference: None where there is none."""

    title: str
    mesh: Mesh
    skeleton: Skeleton
    skin: SkinWeights
    reference: Skeleton | None


def draw_sheet(rows: Sequence[SheetRow], png: Path) -> None:
    """Two models a line; for each: at rest with our bones (orange) and the reference's (blue), the
    weights in the joints' colours, and three poses."""
    width, height = (2 + _POSES) * _TILE, _TILE + _TITLE
    lines = (len(rows) + 1) // 2
    sheet = Image.new("RGB", (2 * width, lines * height), _grey(_PAPER))
    for number, row in enumerate(rows):
        corner = (number % 2 * width, number // 2 * height)
        pen = ImageDraw.Draw(sheet)
        pen.text((corner[0] + 4, corner[1] + 3), row.title, _INK, ImageFont.load_default(12))
        for column, tile in enumerate(_tiles(row)):
            sheet.paste(tile, (corner[0] + column * _TILE, corner[1] + _TITLE))
    sheet.quantize(_COLOURS, dither=Image.Dither.NONE).save(png, optimize=True)


def _tiles(row: SheetRow) -> list[Image.Image]:
    weights = dense_weights(row.skin, len(row.skeleton.names))
    clay = np.full((len(row.mesh.vertices), 3), _CLAY)
    return [
        _with_bones(row),
        _picture(row.mesh.vertices, row.mesh.faces, weights @ _joint_colours(weights.shape[1])),
        *(
            _picture(posed(row.mesh.vertices, row.skeleton, weights, turns), row.mesh.faces, clay)
            for turns in _poses(row.skeleton)
        ),
    ]


def _poses(skeleton: Skeleton) -> list[Points]:
    """Poses that suit the skeleton, and random ones where these are too few."""
    fitting = example_poses(skeleton.heads, skeleton.parents, _POSE_SEED)
    turns = [pose.turns.astype(np.float64) for pose in fitting]
    return [*turns, *random_poses(len(skeleton.names))][:_POSES]


def _with_bones(row: SheetRow) -> Image.Image:
    picture, place = _drawn(row.mesh.vertices, row.mesh.faces, np.full((1, 3), 0.92))
    pen = ImageDraw.Draw(picture)
    skeletons = [(row.skeleton, _OURS, 3)]
    if row.reference is not None:
        skeletons.insert(0, (row.reference, _REFERENCE, 5))
    for skeleton, colour, width in skeletons:
        heads = [(float(x), float(y)) for x, y in place(skeleton.heads)]
        for joint, parent in enumerate(skeleton.parents):
            x, y = heads[joint]
            if parent >= 0:
                pen.line([heads[parent], heads[joint]], colour, width)
            pen.ellipse([x - width, y - width, x + width, y + width], colour)
    return _shrunk(picture)


def _picture(vertices: Points, faces: npt.NDArray[np.int32], colours: Points) -> Image.Image:
    return _shrunk(_drawn(vertices, faces, colours)[0])


def _drawn(
    vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.int32], colours: Points
) -> tuple[Image.Image, "_Projection"]:
    """The mesh in colours (N, 3) or (1, 3), 0..1, and where points of the world are in it."""
    size = _TILE * _SUPERSAMPLING
    place = _Projection(vertices, size)
    points = place.with_depth(vertices)
    fragments = rasterise(points.astype(np.float32), faces, size, size)
    covered = fragments.faces >= 0
    seen = faces[fragments.faces[covered]]
    a, b, c = (points[seen[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a) * (1, -1, -1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    normals *= np.where(normals[:, 2:] < 0, -1, 1)
    light = 0.45 + 0.55 * (normals @ _LIGHT).clip(0)
    if len(colours) > 1:
        shares = fragments.barycentric[covered]
        colours = np.einsum("nc,ncv->nv", shares, colours[seen])
    image = np.full((size, size, 3), _PAPER)
    image[covered] = colours * light[:, None]
    return Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8)), place


class _Projection:
    """From the world to pixels, so that all vertices fit a square picture."""

    def __init__(self, vertices: npt.NDArray[np.floating], size: int) -> None:
        towards = np.array(
            [np.sin(_YAW) * np.cos(_PITCH), np.sin(_PITCH), np.cos(_YAW) * np.cos(_PITCH)]
        )
        right = np.array([np.cos(_YAW), 0, -np.sin(_YAW)])
        self._axes = np.stack([right, -np.cross(towards, right), -towards], axis=1)
        seen = vertices @ self._axes
        low, high = seen.min(axis=0), seen.max(axis=0)
        self._scale = 0.92 * size / max(float((high - low)[:2].max()), 1e-9)
        self._shift = size / 2 - self._scale * (low + high) / 2

    def __call__(self, points: npt.NDArray[np.floating]) -> Points:
        """(n, 2)"""
        return self.with_depth(points)[:, :2]

    def with_depth(self, points: npt.NDArray[np.floating]) -> Points:
        """(n, 3) with the distance behind the eye."""
        placed: Points = points @ self._axes * self._scale + self._shift
        return placed


def _shrunk(picture: Image.Image) -> Image.Image:
    return picture.resize((_TILE, _TILE), Image.Resampling.BOX)


def _joint_colours(count: int) -> Points:
    """(count, 3), neighbours far apart in hue (steps of the golden ratio)."""
    hue = (0.58 + np.arange(count) * 0.618034) % 1
    colours: Points = hsv_to_rgb(np.stack([hue, np.full(count, 0.6), np.full(count, 0.95)], 1))
    return colours


def _grey(level: float) -> tuple[int, int, int]:
    return (int(level * 255),) * 3
