"""Poses for any rest skeleton: limbs are found by where the joints are, not by their names.

Axes: +Y up, the model facing +Z, its left at +X (glTF 2.0, 3.4). Angles are in radians.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int32]

_NEAR_GROUND = 0.15
_OFF_CENTRE = 0.03
_BEND_X, _BEND_Y, _BEND_Z = np.eye(3)


@dataclass(frozen=True)
class Limb:
    """A side chain of joints, from where it leaves the trunk to its tip.

    joints: from the first to the last. upper and lower: the places in joints of the two bones
    that a shoulder and elbow, or a hip and knee, would turn. side: 1 at +X, -1 at -X.
    leg: whether the tip is near the ground. front: whether it leaves the trunk before its middle.
    """

    joints: tuple[int, ...]
    upper: int
    lower: int
    side: int
    leg: bool
    front: bool


@dataclass(frozen=True)
class Pose:
    """turns: (J, 3, 3), each joint's rotation about world axes, carried along by its parents."""

    caption: str
    turns: Float


def example_poses(heads: Float, parents: Int, seed: int) -> tuple[Pose, ...]:
    """Poses that suit a rest skeleton of heads (J, 3) and parents (J,), -1 at roots.

    A wave needs an arm. A skeleton without limbs is only bent.
    """
    limbs = find_limbs(heads, parents)
    poses = []
    if limbs:
        poses.append(Pose("Stride", _stride(heads, parents, limbs)))
    if any(not limb.leg for limb in limbs):
        poses.append(Pose("Wave", _wave(heads, parents, limbs)))
    poses.append(Pose("Bend", _bend(heads, parents, limbs, seed)))
    return tuple(poses)


def find_limbs(heads: Float, parents: Int) -> tuple[Limb, ...]:
    """The legs and arms of a rest skeleton of J joints; heads (J, 3), parents (J,), -1 at roots."""
    extent = float(np.ptp(heads, axis=0).max()) or 1.0
    height = float(np.ptp(heads[:, 1])) or 1.0
    roots = np.flatnonzero(parents < 0)
    offset = heads[:, 0] - heads[roots, 0].mean()
    central = np.abs(offset) < _OFF_CENTRE * extent
    children = _children(parents)
    reach = _reaches(heads, children)
    middle = float(np.median(heads[central, 2])) if central.any() else 0.0
    limbs = []
    for joint in range(len(parents)):
        if central[joint] or (parents[joint] >= 0 and not central[parents[joint]]):
            continue
        chain = [joint]
        while children[chain[-1]]:
            start = heads[chain[-1]]
            chain.append(
                max(
                    children[chain[-1]],
                    key=lambda c: reach[c] + float(np.linalg.norm(heads[c] - start)),
                )
            )
        if len(chain) < 3:
            continue
        bones = np.linalg.norm(np.diff(heads[chain], axis=0), axis=1)
        upper = int(np.argmax(bones[:-1] + bones[1:]))
        lowest = float(heads[chain, 1].min() - heads[:, 1].min())
        limbs.append(
            Limb(
                joints=tuple(chain),
                upper=upper,
                lower=upper + 1,
                side=1 if offset[joint] > 0 else -1,
                leg=lowest < _NEAR_GROUND * height,
                front=bool(heads[joint, 2] > middle),
            )
        )
    return tuple(limbs)


def posed_worlds(node_worlds: Float, node_parents: Int, joints: Int, turns: Float) -> Float:
    """The nodes' matrices (M, 4, 4) after turning joints about their heads.

    joints: (J,) nodes; turns: (J, 3, 3), each about world axes and carried along by its parents.
    """
    turn_of = dict(zip(joints.tolist(), turns, strict=True))
    moves: dict[int, npt.NDArray[np.float64]] = {-1: np.eye(4)}
    waiting = list(range(len(node_parents)))
    posed = np.empty_like(node_worlds)
    while waiting:
        node = waiting.pop()
        parent = int(node_parents[node])
        if parent not in moves:
            waiting += [node, parent]
            continue
        if node in moves:
            continue
        about = np.eye(4)
        if node in turn_of:
            head = node_worlds[node, :3, 3]
            about[:3, :3] = turn_of[node]
            about[:3, 3] = head - turn_of[node] @ head
        moves[node] = moves[parent] @ about
        posed[node] = moves[node] @ node_worlds[node]
    return posed


def _stride(heads: Float, parents: Int, limbs: tuple[Limb, ...]) -> Float:
    turns = _upright(len(parents))
    for limb in limbs:
        # Diagonal legs swing together, and an arm swings against its side's leg.
        forward = limb.side * (-1 if limb.front else 1)
        if limb.leg:
            _turn(turns, limb, limb.upper, _BEND_X, -0.45 * forward)
            _turn(turns, limb, limb.lower, _BEND_X, 0.5 if forward < 0 else 0.2)
        else:
            _turn_arm(turns, heads, limb, 0.2)
            _turn(turns, limb, limb.upper, _BEND_X, 0.45 * limb.side)
            _turn(turns, limb, limb.lower, _BEND_X, -0.5)
    _sway(turns, heads, parents, limbs, _BEND_Y, 0.12)
    return turns


def _wave(heads: Float, parents: Int, limbs: tuple[Limb, ...]) -> Float:
    """The left arm up, the right one down and bent; legs apart."""
    turns = _upright(len(parents))
    for limb in limbs:
        if limb.leg:
            outward = 0.16 if limb.side > 0 else 0.1
            _turn(turns, limb, limb.upper, _BEND_Z, outward * limb.side)
        elif limb.side > 0:
            _turn_arm(turns, heads, limb, 1.95)
            _turn(turns, limb, limb.lower, _BEND_Z, 0.7)
        else:
            _turn_arm(turns, heads, limb, 0.5)
            _turn(turns, limb, limb.lower, _BEND_Z, -0.5)
    _sway(turns, heads, parents, limbs, _BEND_Z, -0.16)
    return turns


def _bend(heads: Float, parents: Int, limbs: tuple[Limb, ...], seed: int) -> Float:
    """Every joint of the limbs turned by its own angle, up to a radian; the trunk a little."""
    random = np.random.default_rng(seed)
    turns = _upright(len(parents))
    for limb in limbs:
        for place, joint in enumerate(limb.joints[:-1]):
            if place < limb.upper:
                continue
            swing = random.uniform(0.5, 1.0) * (1 if place <= limb.lower else 0.3)
            if limb.leg:
                turns[joint] = _rotation(_BEND_X, -swing if place == limb.upper else swing)
            else:
                turns[joint] = _rotation(_BEND_Y, -limb.side * swing)
        if not limb.leg:
            _turn_arm(turns, heads, limb, random.uniform(0.5, 0.9))
    _sway(turns, heads, parents, limbs, _BEND_X, 0.2)
    return turns


def _children(parents: Int) -> list[list[int]]:
    children: list[list[int]] = [[] for _ in parents]
    for joint, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(joint)
    return children


def _reaches(heads: Float, children: list[list[int]]) -> npt.NDArray[np.float64]:
    """How long the longest chain of bones below each joint is."""
    reach = np.full(len(children), np.nan)
    waiting = list(range(len(children)))
    while waiting:
        joint = waiting.pop()
        below = [child for child in children[joint] if np.isnan(reach[child])]
        if below:
            waiting += [joint, *below]
            continue
        lengths = [
            reach[c] + float(np.linalg.norm(heads[c] - heads[joint])) for c in children[joint]
        ]
        reach[joint] = max(lengths, default=0.0)
    return reach


def _upright(count: int) -> Float:
    return np.tile(np.eye(3, dtype=np.float32), (count, 1, 1))


def _turn(turns: Float, limb: Limb, place: int, axis: Float, angle: float) -> None:
    joint = limb.joints[place]
    turns[joint] = _rotation(axis, angle) @ turns[joint]


def _turn_arm(turns: Float, heads: Float, limb: Limb, wanted: float) -> None:
    """Brings an arm to `wanted` radians sideways from hanging down."""
    along = heads[limb.joints[-1]] - heads[limb.joints[limb.upper]]
    sideways = float(np.arctan2(abs(along[0]), -along[1]))
    _turn(turns, limb, limb.upper, _BEND_Z, limb.side * (wanted - sideways))


def _sway(
    turns: Float, heads: Float, parents: Int, limbs: tuple[Limb, ...], axis: Float, angle: float
) -> None:
    """Spreads an angle over the joints of the trunk above the root."""
    limb_joints = {joint for limb in limbs for joint in limb.joints}
    rooted = [j for j in range(len(parents)) if parents[j] >= 0 and j not in limb_joints]
    extent = float(np.ptp(heads, axis=0).max()) or 1.0
    centre = heads[np.flatnonzero(parents < 0), 0].mean()
    trunk = [j for j in rooted if abs(heads[j, 0] - centre) < _OFF_CENTRE * extent]
    for joint in trunk:
        turns[joint] = _rotation(axis, 2 * angle / len(trunk)) @ turns[joint]


def _rotation(axis: Float, angle: float) -> npt.NDArray[np.float64]:
    """Rodrigues' rotation by angle about a unit axis."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation: npt.NDArray[np.float64] = (
        np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    )
    return rotation
