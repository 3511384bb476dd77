"""A skeleton in the making: joints added one by one in the body frame."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from services.inference.geometric.curve_tree import travelled
from services.inference.geometric.surface import BodyFrame, Indices, Points
from services.inference.geometry import Skeleton

# Curves are followed to this distance; no bone of a chain is longer than LONGEST; body units.
TOLERANCE = 0.03
LONGEST = 0.24
SHORTEST = 0.03
# Joints of pieces of so many points whose directions' cosine is less than this are moved to where
# the bones meet, by so much at most, body units.
_SHORTEST_PIECE = 5
_CLEAR_TURN = 0.9
_FARTHEST = 0.08


@dataclass
class Draft:
    """Joints with body frame positions; a joint's parent has been added before it."""

    names: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    heads: list[Points] = field(default_factory=list)
    tails: list[Points] = field(default_factory=list)

    def add(self, name: str, parent: int, head: Points, tail: Points) -> int:
        self.names.append(name)
        self.parents.append(parent)
        self.heads.append(head)
        self.tails.append(tail)
        return len(self.names) - 1

    def add_chain(self, prefix: str, parent: int, polyline: Points) -> list[int]:
        """One joint for each corner of a polyline but the last, which is the tip of the chain."""
        joints: list[int] = []
        for number, (head, tail) in enumerate(pairwise(polyline), 1):
            parent = self.add(f"{prefix}_{number}", parent, head, tail)
            joints.append(parent)
        return joints

    def nearest_bone(self, point: Points) -> tuple[int, float]:
        """The joint whose bone is nearest to a point, and the distance."""
        distances = segment_distances(point[None], np.array(self.heads), np.array(self.tails))[0]
        return int(distances.argmin()), float(distances.min())

    def skeleton(self, frame: BodyFrame) -> Skeleton:
        return Skeleton(
            names=tuple(self.names),
            parents=np.array(self.parents, dtype=np.int32),
            heads=frame.to_world(np.array(self.heads)),
            tails=frame.to_world(np.array(self.tails)),
        )


def segment_distances(points: Points, heads: Points, tails: Points) -> Points:
    """The distance from each of n points (n, 3) to each of m segments (m, 3): (n, m)."""
    along = tails - heads
    squared = np.maximum((along**2).sum(axis=1), 1e-18)
    offset = points[:, None] - heads[None]
    share = np.clip((offset * along).sum(axis=2) / squared, 0.0, 1.0)
    return np.asarray(np.linalg.norm(offset - share[..., None] * along, axis=2))


def chain_corners(points: Points, fixed: list[int]) -> Indices:
    """Which points of a dense polyline become joints, in order, with both ends.

    fixed: indices that must be among them. Between those, corners are where the line bends
    (Douglas and Peucker 1973); long pieces are divided evenly.
    """
    stops = sorted({0, len(points) - 1, *fixed})
    corners = [0]
    for start, end in pairwise(stops):
        corners += [*_bends(points, start, end), end]
    return divided(points, corners, LONGEST, set(stops))


def divided(points: Points, bends: list[int], longest: float, fixed: set[int]) -> Indices:
    """Corners at the bends of a dense polyline and, evenly, between those farther apart.

    Those that are not fixed go where they would be too near to others.
    """
    corners = bends[:1]
    for start, end in pairwise(bends):
        length = float(travelled(points[start : end + 1])[-1])
        corners += _divided(points, start, end, max(1, int(np.ceil(length / longest))))
    return _without_short_bones(points, corners, fixed)


def limb_corners(points: Points, bones: int, spacing: float = 0.04) -> Indices:
    """Like chain_corners, for a limb of so many bones: its clearest bends, the rest evenly.

    spacing: the share of the limb's length by which bends are apart.
    """
    along = travelled(points)
    apart = spacing * along[-1]
    corners = [0, len(points) - 1]
    while len(corners) <= bones:
        bends = [
            (distance, split)
            for start, end in pairwise(corners)
            for split, distance in [bend(points, start, end)]
            if distance > TOLERANCE
            and min(along[split] - along[start], along[end] - along[split]) > apart
        ]
        if not bends:
            break
        corners = sorted([*corners, max(bends)[1]])
    lengths = np.diff(along[corners])
    pieces = np.ones(len(lengths), dtype=int)
    while pieces.sum() < bones:
        pieces[(lengths / pieces).argmax()] += 1
    divided = [0]
    for (start, end), count in zip(pairwise(corners), pieces.tolist(), strict=True):
        divided += _divided(points, start, end, count)
    return _without_short_bones(points, divided, {0, len(points) - 1})


def even_corners(points: Points, bones: int) -> Indices:
    """Which points of a dense polyline divide it into so many bones of one length."""
    return _without_short_bones(
        points, [0, *_divided(points, 0, len(points) - 1, bones)], {0, len(points) - 1}
    )


def joint_places(points: Points, corners: Indices) -> Points:
    """Where the joints at corners of a dense polyline are, (n, 3).

    A medial curve cuts corners; the bones on both sides of a clear bend meet farther out.
    """
    places = points[corners]
    pieces = [points[a : b + 1] for a, b in pairwise(corners)]
    for place, (before, after) in enumerate(pairwise(pieces), 1):
        if min(len(before), len(after)) < _SHORTEST_PIECE:
            continue
        (start, along), (end, onwards) = _middle_line(before), _middle_line(after)
        cosine = float(along @ onwards)
        if abs(cosine) > _CLEAR_TURN:
            continue
        # Where the two lines are nearest to each other.
        way = end - start
        ahead = np.array([way @ along, way @ onwards])
        first, second = np.linalg.solve([[1.0, -cosine], [cosine, -1.0]], ahead)
        meeting = (start + first * along + end + second * onwards) / 2
        away = meeting - places[place]
        places[place] += away * min(1.0, _FARTHEST / max(float(np.linalg.norm(away)), 1e-9))
    return places


def _middle_line(points: Points) -> tuple[Points, Points]:
    """The middle (3,) and direction (3,) of a piece of a curve without its ends."""
    quarter = len(points) // 4
    inner = points[quarter : len(points) - quarter]
    middle = inner.mean(axis=0)
    direction = np.linalg.svd(inner - middle)[2][0]
    return middle, direction * (1.0 if direction @ (points[-1] - points[0]) >= 0.0 else -1.0)


def _bends(points: Points, start: int, end: int) -> list[int]:
    split, distance = bend(points, start, end)
    if distance <= TOLERANCE:
        return []
    return [*_bends(points, start, split), split, *_bends(points, split, end)]


def bend(points: Points, start: int, end: int) -> tuple[int, float]:
    """The point that leaves the straight line the most, and by how much."""
    if end - start < 2:
        return start, 0.0
    inner = points[start + 1 : end]
    distances = segment_distances(inner, points[start][None], points[end][None])[:, 0]
    worst = int(distances.argmax())
    return start + 1 + worst, float(distances[worst])


def _divided(points: Points, start: int, end: int, pieces: int) -> list[int]:
    along = travelled(points[start : end + 1])
    wanted = along[-1] * np.arange(1, pieces) / pieces
    return [*(start + np.searchsorted(along, wanted)).tolist(), end]


def _without_short_bones(points: Points, corners: list[int], stops: set[int]) -> Indices:
    kept = [corners[0]]
    for corner in corners[1:]:
        if np.linalg.norm(points[corner] - points[kept[-1]]) >= SHORTEST:
            kept.append(corner)
        elif corner in stops and kept[-1] not in stops:
            kept[-1] = corner
    if kept[-1] != corners[-1] and len(kept) > 1:
        kept[-1] = corners[-1]
    return np.array(kept)
