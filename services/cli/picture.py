"""One picture of a rigged GLB: its skeleton in the mesh, its skinning weights, and poses."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import uniform_filter

from services.cli.poses import Pose, example_poses, posed_worlds
from services.cli.raster import Fragments, rasterise
from services.cli.rigged_model import RiggedModel, read_rigged_glb, skin

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int32]

_PAPER = np.array([0.965, 0.968, 0.975])
_INK = "#20242c"
_FAINT_INK = "#6b7280"
_DOTS_PER_INCH = 120
_CAPTION_INCHES = 0.45
_SUPERSAMPLING = 2
_POSE_SEED = 7

# Where light comes from in the picture's own axes: right, up, towards the eye.
_KEY_LIGHT = np.array([-0.45, 0.65, 0.62])
_FILL_LIGHT = np.array([0.8, 0.1, 0.4])


@dataclass(frozen=True)
class _Camera:
    """An orthographic eye: the picture's right, up and towards-the-eye axes in the world."""

    right: Float
    up: Float
    towards: Float

    def project(self, points: Float) -> Float:
        return points @ np.stack([self.right, self.up, self.towards], 1)


@dataclass(frozen=True)
class _Panel:
    """What one panel shows.

    positions, normals: (N, 3) in world space. paint: the linear colours (n, 3) of the n covered
    pixels, row by row. heads: (J, 3), the joints to draw, or None.
    """

    caption: str
    positions: Float
    normals: Float
    paint: Callable[[Fragments], Float]
    heads: Float | None
    opacity: float


def draw_rig(glb: Path, png: Path, title: str = "") -> None:
    """Draws the file's rest pose with skeleton, skinning weights and poses into one PNG.

    A file without skinning weights gets the rest pose alone. Raises GlbError for a file that is
    no readable glTF 2.0 binary.
    """
    model = read_rigged_glb(glb)
    parents = _joint_parents(model)
    heads = model.node_worlds[model.joints, :3, 3]
    rest = skin(model, model.node_worlds)

    def colours(fragments: Fragments) -> Float:
        return _base_colours(model, fragments)

    has_joints = len(model.joints) > 0
    first = [
        _Panel(
            "Rest pose and skeleton" if has_joints else "Rest pose",
            *rest,
            colours,
            heads if has_joints else None,
            0.42 if has_joints else 1.0,
        )
    ]
    rows = [first]
    if model.skinned and has_joints:
        tints = _weight_colours(model)

        def weights(fragments: Fragments) -> Float:
            return _interpolated(tints, model.faces, fragments)

        first.append(_Panel("Skinning weights", *rest, weights, None, 1.0))
        rows.append(
            [
                _Panel(pose.caption, *_posed(model, pose), colours, None, 1.0)
                for pose in example_poses(heads, parents, _POSE_SEED)
            ]
        )
    _draw(rows, model, parents, title or glb.stem, png)


def _posed(model: RiggedModel, pose: Pose) -> tuple[Float, Float]:
    worlds = posed_worlds(model.node_worlds, model.node_parents, model.joints, pose.turns)
    return skin(model, worlds)


def _joint_parents(model: RiggedModel) -> Int:
    """Each joint's nearest ancestor that is a joint, as an index of joints; -1 where none is."""
    place = {int(node): index for index, node in enumerate(model.joints)}
    parents = np.full(len(model.joints), -1, np.int32)
    for node, index in place.items():
        above = int(model.node_parents[node])
        while above >= 0 and above not in place:
            above = int(model.node_parents[above])
        parents[index] = place.get(above, -1)
    return parents


def _draw(
    rows: list[list[_Panel]], model: RiggedModel, parents: Int, title: str, png: Path
) -> None:
    camera = _camera(*((24, 9) if _stands_tall(model) else (38, 14)))
    row_inches = [5.6, 4.9][: len(rows)]
    width = max(
        _width_inches(panels, camera, inches)
        for panels, inches in zip(rows, row_inches, strict=True)
    )
    height = sum(row_inches) + 0.95
    figure = Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, facecolor=tuple(_PAPER))
    FigureCanvasAgg(figure)
    margin = 0.45 / width
    figure.text(margin, 1 - 0.42 / height, title, size=19, weight="bold", color=_INK, va="center")
    figure.text(
        1 - margin, 1 - 0.42 / height, _summary(model), size=11, color=_FAINT_INK,
        va="center", ha="right",
    )  # fmt: skip
    top = height - 0.8
    for panels, inches in zip(rows, row_inches, strict=True):
        scale = _shared_scale(panels, camera, width / len(panels), inches)
        for column, panel in enumerate(panels):
            box = (
                column / len(panels), (top - inches) / height, 1 / len(panels), inches / height,
            )  # fmt: skip
            axes = figure.add_axes(box)
            axes.set_axis_off()
            _draw_panel(axes, panel, model, parents, camera, scale, width / len(panels), inches)
        top -= inches
    figure.savefig(png, facecolor=figure.get_facecolor(), metadata={"Software": None})


def _draw_panel(
    axes: Axes,
    panel: _Panel,
    model: RiggedModel,
    parents: Int,
    camera: _Camera,
    scale: float,
    width_inches: float,
    height_inches: float,
) -> None:
    """Fills axes with the panel; scale: inches a world unit, the caption's strip at the foot."""
    pixels = round(_DOTS_PER_INCH * _SUPERSAMPLING)
    width, height = round(width_inches * pixels), round(height_inches * pixels)
    seen = camera.project(panel.positions)
    low, high = _frame(panel, camera)
    middle = (low + high) / 2
    centre = np.array([width / 2, (height_inches - _CAPTION_INCHES) / 2 * pixels])

    def to_pixels(points: Float) -> Float:
        across = (points[:, :2] - middle) * np.array([1, -1]) * scale * pixels + centre
        return np.column_stack([across, -points[:, 2] * scale * pixels]).astype(np.float32)

    fragments = rasterise(to_pixels(seen), model.faces, width, height)
    covered = fragments.faces >= 0
    light = _light(_seen_normals(camera, panel, model.faces, fragments)) * _crevices(fragments)
    image = np.broadcast_to(_PAPER, (height, width, 3)).copy()
    image *= 1 - _shadow(panel.positions, model.faces, camera, to_pixels, width, height)[..., None]
    lit = _to_srgb(panel.paint(fragments) * light[:, None])
    image[covered] += panel.opacity * (lit - image[covered])

    small = Image.fromarray((image.clip(0, 1) * 255 + 0.5).astype(np.uint8))
    small = small.resize((width // _SUPERSAMPLING, height // _SUPERSAMPLING), Image.Resampling.BOX)
    axes.imshow(np.asarray(small), extent=(0, width, height, 0), aspect="auto")
    if panel.heads is not None:
        _draw_skeleton(axes, to_pixels(camera.project(panel.heads)), parents, pixels)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.text(
        width / 2, height - _CAPTION_INCHES / 2 * pixels, panel.caption, size=12, color=_FAINT_INK,
        ha="center", va="center",
    )  # fmt: skip


def _draw_skeleton(axes: Axes, heads: Float, parents: Int, pixels: int) -> None:
    """Bones as slim kites, the farthest first, and a dot a joint; heads: (J, 3) in pixels."""
    colours = _joint_colours(len(parents))
    dot = 0.055 * pixels * min(1.0, (40 / max(len(parents), 1)) ** 0.5)
    bones = [int(joint) for joint in np.flatnonzero(parents >= 0)]
    bones.sort(key=lambda joint: -float(heads[joint, 2] + heads[parents[joint], 2]))
    kites = []
    for joint in bones:
        start, end = heads[parents[joint], :2], heads[joint, :2]
        along = end - start
        length = max(float(np.hypot(*along)), 1e-6)
        across = np.array([-along[1], along[0]]) / length * min(0.16 * length, dot * 1.1)
        waist = start + 0.18 * along
        kites.append([start, waist + across, end, waist - across])
    bone_colours = [colours[parents[joint]] for joint in bones]
    axes.add_collection(
        PolyCollection(kites, facecolors=bone_colours, edgecolors=_INK, linewidths=0.7, alpha=0.95)
    )
    axes.scatter(
        heads[:, 0], heads[:, 1], s=(dot * 72 / pixels * 1.25) ** 2, c=colours, edgecolors=_INK,
        linewidths=0.7, zorder=3,
    )  # fmt: skip


def _camera(yaw_degrees: float, pitch_degrees: float) -> _Camera:
    yaw, pitch = np.radians([yaw_degrees, pitch_degrees])
    towards = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    right = np.array([np.cos(yaw), 0, -np.sin(yaw)])
    return _Camera(
        right.astype(np.float32),
        np.cross(towards, right).astype(np.float32),
        towards.astype(np.float32),
    )


def _stands_tall(model: RiggedModel) -> bool:
    positions, _ = skin(model, model.node_worlds)
    _, height, depth = np.ptp(positions, axis=0)
    return bool(height > 1.6 * depth)


def _width_inches(panels: list[_Panel], camera: _Camera, height: float) -> float:
    """How wide the picture must be for a row of panels, within limits."""
    widest, tallest = _largest(panels, camera)
    needed = len(panels) * (widest / tallest * (height - _CAPTION_INCHES) + 0.3)
    return float(np.clip(needed, 8.0 if len(panels) == 1 else 11.0, 15.0))


def _shared_scale(panels: list[_Panel], camera: _Camera, width: float, height: float) -> float:
    """Inches a world unit at which every panel's model fits its panel."""
    widest, tallest = _largest(panels, camera)
    return min(0.92 * width / widest, 0.92 * (height - _CAPTION_INCHES) / tallest)


def _largest(panels: list[_Panel], camera: _Camera) -> tuple[float, float]:
    """The greatest width and height that a panel's model has for the camera, in world units."""
    frames = [_frame(panel, camera) for panel in panels]
    widest, tallest = np.maximum(np.max([high - low for low, high in frames], 0), 1e-9)
    return float(widest), float(tallest)


def _frame(panel: _Panel, camera: _Camera) -> tuple[Float, Float]:
    """The lowest and highest place (2,) of a model and its shadow in the picture's axes."""
    both = np.concatenate([panel.positions, _fallen(panel.positions)])
    seen = camera.project(both)[:, :2]
    return seen.min(0), seen.max(0)


def _fallen(positions: Float) -> Float:
    ground = positions.copy()
    ground[:, 1] = positions[:, 1].min()
    return ground


def _summary(model: RiggedModel) -> str:
    weighted = (model.weights > 0).sum(1).max()
    counts = [f"{len(model.faces):,} triangles"]
    if len(model.joints):
        counts.insert(0, f"{len(model.joints)} joints")
    if model.skinned:
        counts.append(f"up to {weighted} influences a vertex")
    return "   ·   ".join(counts)


def _seen_normals(camera: _Camera, panel: _Panel, faces: Int, fragments: Fragments) -> Float:
    """(n, 3) unit normals in the picture's axes, turned towards the eye: windings may lie."""
    a, b, c = (panel.positions[faces[:, corner]] for corner in range(3))
    flat = np.cross(b - a, c - a)
    normals = _interpolated(panel.normals, faces, fragments)
    missing = np.linalg.norm(normals, axis=1) < 1e-6
    normals[missing] = flat[fragments.faces[fragments.faces >= 0][missing]]
    normals = camera.project(normals)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return np.where(normals[:, 2:] < 0, -normals, normals)


def _interpolated(values: Float, faces: Int, fragments: Fragments) -> Float:
    """A value a vertex (N, C) at the n covered pixels, row by row: (n, C)."""
    covered = fragments.faces >= 0
    corners = values[faces[fragments.faces[covered]]]
    blended: Float = np.einsum("nc,ncv->nv", fragments.barycentric[covered], corners)
    return blended


def _base_colours(model: RiggedModel, fragments: Fragments) -> Float:
    """(n, 3) linear base colours: factor x vertex colour x texture (glTF 2.0, 3.9.2)."""
    colours = _interpolated(model.colours, model.faces, fragments)
    uvs = _interpolated(model.uvs, model.faces, fragments)
    surface_of = model.face_surfaces[fragments.faces[fragments.faces >= 0]]
    for index, surface in enumerate(model.surfaces):
        here = surface_of == index
        colours[here] *= surface.factor
        if surface.texture is not None:
            colours[here] *= _texels(surface.texture, uvs[here])
    return colours


def _texels(texture: npt.NDArray[np.uint8], uvs: Float) -> Float:
    """Bilinear samples (n, 3) in linear light at uvs (n, 2), repeating, v down."""
    height, width = texture.shape[:2]
    x, y = uvs[:, 0] % 1 * width - 0.5, uvs[:, 1] % 1 * height - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    across, down = (x - left)[:, None], (y - top)[:, None]

    def at(row: npt.NDArray[np.int64], column: npt.NDArray[np.int64]) -> Float:
        return _to_linear(texture[row % height, column % width] / np.float32(255))

    upper = at(top, left) * (1 - across) + at(top, left + 1) * across
    lower = at(top + 1, left) * (1 - across) + at(top + 1, left + 1) * across
    sampled: Float = upper * (1 - down) + lower * down
    return sampled


def _weight_colours(model: RiggedModel) -> Float:
    """(N, 3) linear: the joints' colours blended by weight; grey where no joint is followed."""
    place = {int(node): index for index, node in enumerate(model.joints)}
    palette = np.vstack([_to_linear(_joint_colours(len(model.joints))), [[0.35, 0.35, 0.35]]])
    joint_of = np.full(len(model.binding_nodes), -1)
    for binding, bound in enumerate(model.binding_nodes):
        node = int(bound)
        while node >= 0 and node not in place:
            node = int(model.node_parents[node])
        joint_of[binding] = place.get(node, -1)
    tints = palette[joint_of[model.influences]]
    blended: Float = (tints * model.weights[..., None]).sum(1).astype(np.float32)
    return blended


def _joint_colours(count: int) -> Float:
    """(count, 3) sRGB, neighbours far apart in hue (steps of the golden ratio)."""
    index = np.arange(count)
    hue = (0.58 + index * 0.618034) % 1
    return hsv_to_rgb(
        np.column_stack([hue, 0.62 - 0.14 * (index % 2), 0.95 - 0.1 * (index // 2 % 2)])
    ).astype(np.float32)


def _light(normals: Float) -> Float:
    """(n,) brightness by Lambert's law from a key and a fill light, over light from the sky."""
    key = (normals @ (_KEY_LIGHT / np.linalg.norm(_KEY_LIGHT))).clip(0)
    fill = (normals @ (_FILL_LIGHT / np.linalg.norm(_FILL_LIGHT))).clip(0)
    sky = 0.5 + 0.5 * normals[:, 1]
    light: Float = 0.2 + 0.22 * sky + 0.72 * key + 0.16 * fill
    return light


def _crevices(fragments: Fragments) -> Float:
    """(n,) in [0.6, 1]: darker where the surroundings are nearer than the pixel's own spot.

    Unsharp masking of the depth buffer (Luft, Colditz and Deussen, 2006).
    """
    covered = fragments.faces >= 0
    radius = max(covered.shape) / 90
    share = _blurred(covered.astype(np.float32), radius)[covered]
    nearby = _blurred(np.where(covered, fragments.depth, 0), radius)[covered] / share
    behind = (fragments.depth[covered] - nearby) / (3 * radius)
    return (1 - 0.4 * behind.clip(0, 1)).astype(np.float32)


def _shadow(
    positions: Float,
    faces: Int,
    camera: _Camera,
    to_pixels: Callable[[Float], Float],
    width: int,
    height: int,
) -> Float:
    """(H, W) how much of the light a soft shadow straight below the model takes."""
    fallen = rasterise(to_pixels(camera.project(_fallen(positions))), faces, width, height)
    return 0.22 * _blurred((fallen.faces >= 0).astype(np.float32), width / 70)


def _blurred(image: Float, radius: float) -> Float:
    """Two box filters, near enough to a Gaussian of that standard deviation."""
    size = max(1, round(radius * 6**0.5))
    blurred: Float = uniform_filter(uniform_filter(image, size, mode="constant"), size)
    return blurred


def _to_linear(colour: Float) -> Float:
    linear: Float = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return linear


def _to_srgb(light: Float) -> Float:
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
