"""Generated models with known rigs: bodies of six plans, posed, damaged and equipped at random."""

from collections.abc import Callable
from dataclasses import dataclass

import fast_simplification
import numpy as np
import numpy.typing as npt
from scipy import sparse
from skimage.measure import marching_cubes

from services.inference.formats.joints import strongest
from services.inference.geometry import Mesh, Skeleton, SkinWeights
from tests.bench.rig_quality.body_plans import (
    biped,
    bird,
    multiped,
    prop,
    quadruped,
    serpent,
)
from tests.bench.rig_quality.sketch import Capsule, Points, Sketch, random_turns, turned

Faces = npt.NDArray[np.int64]
Part = tuple[Points, Faces]
Plan = Callable[[np.random.Generator, frozenset[str]], Sketch]

# How fast a joint's weight falls with the distance to its flesh, in radii.
_SOFTNESS = 0.25
_SMOOTHINGS = 3
_MOST_CELLS = 12_000_000
# Shares of the longest side.
_NOISE = 0.002
_HOLE = 0.03
_HOLES = 8


@dataclass(frozen=True)
class Variant:
    """One body of the set. faces: about how many triangles it gets. angle: radians, of its pose.

    features: what its plan adds. damage: noise, holes, flipped (half of the faces), components
    (a closed surface for each bone). mirrored: whether the right side stands like the left.
    """

    name: str
    plan: Plan
    features: frozenset[str]
    damage: frozenset[str]
    faces: int
    angle: float
    mirrored: bool


@dataclass(frozen=True)
class Body:
    """A model and its true rig."""

    name: str
    mesh: Mesh
    skeleton: Skeleton
    skin: SkinWeights


def _variant(
    name: str,
    plan: Plan,
    features: str = "",
    damage: str = "",
    faces: int = 12_000,
    angle: float = 0.1,
    mirrored: bool = True,
) -> Variant:
    split = frozenset(features.split()), frozenset(damage.split())
    return Variant(name, plan, *split, faces, angle, mirrored)


VARIANTS = (
    _variant("biped_plain", biped),
    _variant("biped_fingers", biped, "fingers ears", faces=40_000),
    _variant("biped_tail", biped, "tail ears", "noise", 8_000),
    _variant("biped_equipped", biped, "stick backpack hat", mirrored=False),
    _variant("biped_cape", biped, "cape", "holes", 20_000),
    _variant("biped_parts", biped, "", "components flipped", 6_000, 0.15, False),
    _variant("quadruped_plain", quadruped, "tail ears"),
    _variant("quadruped_long_neck", quadruped, "tail ears long_neck", "", 30_000, 0.1, False),
    _variant("quadruped_noisy", quadruped, "", "noise holes", 8_000),
    _variant("quadruped_laden", quadruped, "tail backpack", "", 12_000, 0.15, False),
    _variant("quadruped_parts", quadruped, "tail ears", "components flipped", 5_000),
    _variant("quadruped_coarse", quadruped, "tail", "", 1_200, 0.12, False),
    _variant("bird_plain", bird, faces=20_000),
    _variant("bird_long_neck", bird, "long_neck long_legs", "", 20_000, 0.1, False),
    _variant("bird_holes", bird, "", "holes", 15_000),
    _variant("bird_noisy", bird, "long_legs", "noise flipped", 10_000),
    _variant("bird_parts", bird, "", "components", 8_000, 0.12, False),
    _variant("multiped_six", multiped),
    _variant("multiped_eight", multiped, "eight_legs", "", 20_000, 0.1, False),
    _variant("multiped_ten", multiped, "ten_legs tail", "", 30_000),
    _variant("multiped_noisy", multiped, "eight_legs", "noise holes", 10_000),
    _variant("multiped_parts", multiped, "", "components flipped", 6_000, 0.12, False),
    _variant("serpent_snake", serpent, angle=0.15, mirrored=False),
    _variant("serpent_noisy", serpent, "", "noise", 4_000, 0.2, False),
    _variant("serpent_fish", serpent, "fins", "", 12_000, 0.06),
    _variant("serpent_fish_holes", serpent, "fins", "holes", 8_000, 0.1, False),
    _variant("serpent_parts", serpent, "", "components flipped", 3_000, 0.15, False),
    _variant("prop_sword", prop, "sword", faces=3_000),
    _variant("prop_lamp", prop, "lamp", angle=0.2, mirrored=False),
    _variant("prop_tree", prop, "tree", "noise", 20_000, 0.1, False),
    _variant("prop_hammer", prop, "hammer", "components", 2_000),
    _variant("prop_tongs", prop, "tongs", faces=6_000),
    _variant("prop_table", prop, "", "holes", 6_000),
)


def build(variant: Variant, seed: int) -> Body:
    """The same body each time for a variant and a seed."""
    random = np.random.default_rng([seed, *variant.name.encode()])
    sketch = variant.plan(random, variant.features)
    turns = random_turns(sketch.skeleton, random, variant.angle, variant.mirrored)
    skeleton, capsules = turned(sketch, turns)
    groups = _groups(capsules, "components" in variant.damage)
    parts = [_surface(group, capsules) for group in groups]
    share = min(1.0, variant.faces / sum(len(faces) for _, faces in parts))
    parts = [_reduced(part, share) for part in parts]
    skin = strongest(*_influences(skeleton, groups, parts))
    vertices = np.concatenate([points for points, _ in parts])
    starts = np.cumsum([0, *(len(points) for points, _ in parts)])
    faces = np.concatenate([own + start for (_, own), start in zip(parts, starts, strict=False)])
    owners = np.repeat(np.arange(len(parts)), [len(own) for _, own in parts])
    extent = float(np.ptp(vertices, axis=0).max())
    if "noise" in variant.damage:
        vertices = vertices + random.normal(0, _NOISE * extent, vertices.shape)
    if "holes" in variant.damage:
        kept = _outside_holes(vertices, faces, random, _HOLE * extent)
        faces, owners = faces[kept], owners[kept]
    if "flipped" in variant.damage:
        turned_over = random.random(len(faces)) < 0.5
        faces[turned_over] = faces[turned_over][:, ::-1]
    used, corners = np.unique(faces, return_inverse=True)
    mesh = Mesh(
        vertices=vertices[used].astype(np.float32),
        faces=corners.reshape(-1, 3).astype(np.int32),
        parts=owners.astype(np.int32),
        part_names=tuple(f"part_{number}" for number in range(len(parts))),
    )
    return Body(variant.name, mesh, skeleton, SkinWeights(skin.joints[used], skin.weights[used]))


def _groups(capsules: list[Capsule], apart: bool) -> list[list[Capsule]]:
    """What gets a surface of its own: the body, or each joint's piece of it, and loose things."""
    keys = [(capsule.loose, capsule.joint if apart or capsule.loose else 0) for capsule in capsules]
    return [
        [capsule for capsule, own in zip(capsules, keys, strict=True) if own == key]
        for key in sorted(set(keys))
    ]


def _surface(group: list[Capsule], everything: list[Capsule]) -> Part:
    """A closed surface around some capsules, in cells that suit their thinnest."""
    low, high = _bounds(everything)
    thinnest = min(min(capsule.radii) / capsule.thinness for capsule in group)
    own_low, own_high = _bounds(group)
    swelling = max(capsule.widest_blend for capsule in group) / 2
    own_low, own_high = own_low - swelling, own_high + swelling
    cell = min(float((high - low).max()) / 90, max(0.7 * thinnest, float((high - low).max()) / 300))
    cell = max(cell, float((np.prod(own_high - own_low) / _MOST_CELLS) ** (1 / 3)))
    origin = own_low - 2 * cell
    shape = np.ceil((own_high - origin) / cell).astype(int) + 3
    field = np.full(shape, 1e3, np.float32)
    for capsule in group:
        _add(field, origin, cell, capsule)
    vertices, faces, _, _ = marching_cubes(field, 0.0)
    return vertices * cell + origin, faces.astype(np.int64)


def _bounds(capsules: list[Capsule]) -> tuple[Points, Points]:
    ends = np.array([point for c in capsules for point in (c.start, c.end)])
    radii = np.array([[radius] for c in capsules for radius in c.radii])
    return (ends - radii).min(axis=0), (ends + radii).max(axis=0)


def _add(field: npt.NDArray[np.float32], origin: Points, cell: float, capsule: Capsule) -> None:
    """Unites the field of distances with a capsule by a smooth minimum (Quilez)."""
    low, high = _bounds([capsule])
    margin = capsule.widest_blend + 2 * cell
    first = np.maximum(np.floor((low - margin - origin) / cell), 0).astype(int)
    last = np.minimum(np.ceil((high + margin - origin) / cell).astype(int) + 1, field.shape)
    here = tuple(slice(start, end) for start, end in zip(first, last, strict=True))
    axes = [origin[k] + cell * np.arange(first[k], last[k]) for k in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    own = capsule.distances(points)[0]
    share = (0.5 + 0.5 * (field[here] - own) / capsule.blend).clip(0, 1)
    blended = field[here] + share * (own - field[here]) - capsule.blend * share * (1 - share)
    field[here] = blended


def _reduced(part: Part, share: float) -> Part:
    if share >= 1:
        return part
    wanted = max(int(share * len(part[1])), 60)
    points, faces = fast_simplification.simplify(
        part[0].astype(np.float32), part[1].astype(np.int32), target_count=wanted
    )
    return points.astype(np.float64), faces.astype(np.int64)


def _influences(
    skeleton: Skeleton, groups: list[list[Capsule]], parts: list[Part]
) -> tuple[npt.NDArray[np.int64], Points]:
    """(N, J) joints and weights of all parts' vertices in turn."""
    count = len(skeleton.names)
    flesh = [capsule for group in groups for capsule in group if not capsule.loose]
    weights = [
        np.eye(count)[[group[0].joint] * len(part[0])]
        if group[0].loose
        else _smoothed(_flesh_weights(part[0], flesh, skeleton), part[1])
        for group, part in zip(groups, parts, strict=True)
    ]
    stacked = np.concatenate(weights)
    return np.broadcast_to(np.arange(count), stacked.shape), stacked


def _flesh_weights(points: Points, flesh: list[Capsule], skeleton: Skeleton) -> Points:
    """(n, J) the weight of the nearest flesh's joint, its parent and its children, each falling
    with the distance to its own flesh. Limbs that only touch do not move each other."""
    count = len(skeleton.names)
    near, radius = np.full((len(points), count), np.inf), np.ones((len(points), count))
    for capsule in flesh:
        distance, own_radius = capsule.distances(points)
        nearer = distance < near[:, capsule.joint]
        near[nearer, capsule.joint] = distance[nearer]
        radius[nearer, capsule.joint] = own_radius[nearer]
    nearest = near.argmin(axis=1)
    linked = np.eye(count, dtype=bool)
    for joint, parent in enumerate(skeleton.parents):
        if parent >= 0:
            linked[joint, parent] = linked[parent, joint] = True
    rows = np.arange(len(points))
    beyond = near - near[rows, nearest][:, None]
    weights = np.exp(-beyond / (_SOFTNESS * radius[rows, nearest])[:, None])
    weights[~linked[nearest]] = 0
    normalised: Points = weights / weights.sum(axis=1, keepdims=True)
    return normalised


def _smoothed(weights: Points, faces: Faces) -> Points:
    """Each vertex's weights half mixed with the mean of its neighbours', a few times."""
    count = len(weights)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    links = sparse.coo_array((np.ones(len(edges)), edges.T), (count, count)).tocsr()
    links = links + links.T
    mean = sparse.diags_array(1 / np.maximum(links.sum(axis=1), 1)) @ links
    lonely = links.sum(axis=1) == 0
    for _ in range(_SMOOTHINGS):
        weights = np.where(lonely[:, None], weights, 0.5 * weights + 0.5 * (mean @ weights))
    return weights


def _outside_holes(
    vertices: Points, faces: Faces, random: np.random.Generator, radius: float
) -> npt.NDArray[np.bool_]:
    """(F,) which faces are left when round holes are cut into the surface, which go through the
    skin and not through a limb."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    middles, normals = (a + b + c) / 3, np.cross(b - a, c - a)
    kept = np.ones(len(faces), bool)
    for centre in random.integers(len(faces), size=_HOLES):
        near = np.linalg.norm(middles - middles[centre], axis=1) < radius
        kept &= ~(near & (normals @ normals[centre] > 0))
    return kept
