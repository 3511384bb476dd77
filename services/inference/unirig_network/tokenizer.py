"""Skeletons as sequences of tokens, and back (UniRig, section 3).

    bos class { [part] [branch px py pz] x y z } eos

Coordinates are in [-1, 1], quantised to 256 bins. A joint follows its parent; one whose parent is
not the joint before it is a branch and repeats its parent's place first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 256
BRANCH = 256
BOS = 257
EOS = 258
PAD = 259
SPRING = 260
CLASS_NONE = 263
VOCABULARY = 267

PART_TOKENS = {"body": 261, "hand": 262}
CLASS_TOKENS = {"vroid": 264, "mixamo": 265, "articulationxl": 266}

_PART_NAMES = {token: name for name, token in PART_TOKENS.items()}
_CLASS_NAMES = {token: name for name, token in CLASS_TOKENS.items()}


def _mirrored(left: str, right: str, bones: Sequence[str]) -> tuple[str, ...]:
    return tuple(side + bone for side in (left, right) for bone in bones)


def _fingers(side: str, fingers: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{side}{finger}{joint}" for finger in fingers for joint in (1, 2, 3))


# The order within a part is the order of the joints in a sequence. On the right, the index finger
# precedes the thumb: so the models were trained.
PART_BONES: dict[str, dict[str, tuple[str, ...]]] = {
    "vroid": {
        "body": (
            *(
                f"J_Bip_C_{bone}"
                for bone in ("Hips", "Spine", "Chest", "UpperChest", "Neck", "Head")
            ),
            *_mirrored("J_Bip_L_", "J_Bip_R_", ("Shoulder", "UpperArm", "LowerArm", "Hand")),
            *_mirrored("J_Bip_L_", "J_Bip_R_", ("UpperLeg", "LowerLeg", "Foot", "ToeBase")),
        ),
        "hand": (
            *_fingers("J_Bip_L_", ("Thumb", "Index", "Middle", "Ring", "Little")),
            *_fingers("J_Bip_R_", ("Index", "Thumb", "Middle", "Ring", "Little")),
        ),
    },
    "mixamo": {
        "body": (
            *(
                f"mixamorig:{bone}"
                for bone in ("Hips", "Spine", "Spine1", "Spine2", "Neck", "Head")
            ),
            *_mirrored("mixamorig:Left", "mixamorig:Right", ("Shoulder", "Arm", "ForeArm", "Hand")),
            *_mirrored("mixamorig:Left", "mixamorig:Right", ("UpLeg", "Leg", "Foot", "ToeBase")),
        ),
        "hand": (
            *_fingers("mixamorig:LeftHand", ("Thumb", "Index", "Middle", "Ring", "Pinky")),
            *_fingers("mixamorig:RightHand", ("Index", "Thumb", "Middle", "Ring", "Pinky")),
        ),
    },
}


class MalformedSequenceError(ValueError):
    """Tokens that are no skeleton."""


@dataclass(frozen=True)
class TokenSkeleton:
    """A skeleton read from tokens: J joints, the root first, parents before children.

    joints: (J, 3) float32 in [-1, 1]. parents: (J,) int32, -1 for the root.
    tails: (J, 3) float64. names: J names. class_name: None if the sequence names no class.
    parts: the markers in their order, None for spring.
    """

    joints: npt.NDArray[np.float32]
    parents: npt.NDArray[np.int32]
    tails: npt.NDArray[np.float64]
    names: tuple[str, ...]
    class_name: str | None
    parts: tuple[str | None, ...]


@dataclass(frozen=True)
class BoneOrder:
    """order: the original index of each bone in its new place. markers: the token before it."""

    order: tuple[int, ...]
    markers: dict[int, int]


def quantise(places: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Bins of coordinates in [-1, 1], rounding half to even, clipped to 0..255."""
    scaled = (np.asarray(places) + 1) / 2 * BINS
    bins: npt.NDArray[np.int64] = np.clip(np.round(scaled), 0, BINS - 1).astype(np.int64)
    return bins


def dequantise(bins: npt.ArrayLike, unbiased: bool = False) -> npt.NDArray[np.float32]:
    """Coordinates of bins, as float32.

    Encoding rounds to the edges of bins and the reference decodes to their centres, so that a
    round trip moves a point by half a bin (1/256) on average; unbiased decodes to the edges.
    """
    shift = 0.0 if unbiased else 0.5
    places = (np.asarray(bins) + shift) / BINS * 2 - 1
    return np.asarray(places, dtype=np.float32)


def class_token(class_name: str | None) -> int:
    """The token of a class; KeyError if there is no such class."""
    return CLASS_NONE if class_name is None else CLASS_TOKENS[class_name]


def encode_skeleton(
    joints: npt.ArrayLike,
    parents: Sequence[int],
    class_name: str | None,
    names: Sequence[str] = (),
) -> list[int]:
    """The sequence of a skeleton, from bos to eos.

    joints: (J, 3) in [-1, 1]. parents: J indices, -1 for the root, each below its own index.
    names: J names; only classes with parts (vroid, mixamo) need them.
    """
    bones = order_bones(names, parents, class_name)
    bins = quantise(joints)
    tokens = [BOS, class_token(class_name)]
    for place, bone in enumerate(bones.order):
        if place in bones.markers:
            tokens.append(bones.markers[place])
        parent = parents[bone]
        if parent >= 0 and (place == 0 or parent != bones.order[place - 1]):
            tokens += [BRANCH, *bins[parent].tolist()]
        tokens += bins[bone].tolist()
    return [*tokens, EOS]


def order_bones(names: Sequence[str], parents: Sequence[int], class_name: str | None) -> BoneOrder:
    """The bones of each part of the class in the part's order, then the others in their own.

    A part counts if all its bones are there and their parents are placed before them; the first
    that does not ends the parts.
    """
    order: list[int] = []
    markers: dict[int, int] = {}
    index = {name: bone for bone, name in enumerate(names)}
    for part, bones in PART_BONES.get(class_name or "", {}).items():
        extended = _with_part(order, [index.get(name) for name in bones], parents)
        if extended is None:
            break
        markers[len(order)] = PART_TOKENS[part]
        order = extended
    placed = set(order)
    rest = [bone for bone in range(len(parents)) if bone not in placed]
    if rest:
        markers[len(order)] = SPRING
    return BoneOrder(order=(*order, *rest), markers=markers)


def decode_skeleton(tokens: Sequence[int], unbiased: bool = False) -> TokenSkeleton:
    """Read a sequence from bos to eos; pads may follow. Raises MalformedSequenceError."""
    body = _between_bos_and_eos(tokens)
    if not body or (body[0] not in _CLASS_NAMES and body[0] != CLASS_NONE):
        raise MalformedSequenceError("the sequence names no class")
    class_name = _CLASS_NAMES.get(body[0])
    bins, parents, parts = _walk(body[1:])
    if len(bins) < 2:
        raise MalformedSequenceError(f"a skeleton has two joints or more, this one {len(bins)}")
    joints = dequantise(np.array(bins), unbiased)
    return TokenSkeleton(
        joints=joints,
        parents=np.array(parents, dtype=np.int32),
        tails=_tails(joints, parents),
        names=_names(class_name, parts, len(joints)),
        class_name=class_name,
        parts=tuple(parts),
    )


def _with_part(
    order: list[int], bones: list[int | None], parents: Sequence[int]
) -> list[int] | None:
    """The order with a part's bones behind it; None if the part cannot be used."""
    extended = list(order)
    placed = {-1, *order}
    for bone in bones:
        if bone is None or parents[bone] not in placed:
            return None
        extended.append(bone)
        placed.add(bone)
    return extended


def _between_bos_and_eos(tokens: Sequence[int]) -> list[int]:
    body = list(tokens)
    while body and body[-1] == PAD:
        body.pop()
    if not body or body[0] != BOS:
        raise MalformedSequenceError("the first token is not bos")
    if body[-1] != EOS:
        raise MalformedSequenceError("the last token is not eos")
    return body[1:-1]


def _walk(
    tokens: list[int],
) -> tuple[list[tuple[int, ...]], list[int], list[str | None]]:
    """The bins of the joints, their parents, and the part markers."""
    joints: list[tuple[int, ...]] = []
    parents: list[int] = []
    parts: list[str | None] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if token == SPRING or token in _PART_NAMES:
            parts.append(_PART_NAMES.get(token))
            place += 1
            continue
        branch = token == BRANCH
        bins = tuple(tokens[place + branch : place + branch + (6 if branch else 3)])
        if len(bins) != (6 if branch else 3) or not all(0 <= value < BINS for value in bins):
            raise MalformedSequenceError(f"token {place + 2} starts no joint that is complete")
        if branch:
            parents.append(_nearest(joints, bins[:3]))
        else:
            parents.append(len(joints) - 1)
        joints.append(bins[-3:])
        place += branch + len(bins)
    return joints, parents, parts


def _nearest(joints: list[tuple[int, ...]], place: tuple[int, ...]) -> int:
    """The joint nearest to a place, the latest of equally near ones; -1 if there is none yet."""
    best, smallest = -1, np.inf
    for index in range(len(joints) - 1, -1, -1):
        distance = sum((a - b) ** 2 for a, b in zip(joints[index], place, strict=True))
        if distance < smallest:
            best, smallest = index, distance
    return best


def _tails(joints: npt.NDArray[np.float32], parents: list[int]) -> npt.NDArray[np.float64]:
    """An only child's joint; else half the bone onwards.

    A root with several children points up by their mean distance. The reference adds the root's
    own place to that direction, and so do we: tails do not enter the network.
    """
    children: list[list[int]] = [[] for _ in parents]
    for bone, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(bone)
    tails = np.empty(joints.shape)
    for bone, below in enumerate(children):
        joint = joints[bone]
        if len(below) == 1:
            tails[bone] = joints[below[0]]
        elif parents[bone] >= 0:
            tails[bone] = joint + np.float32(0.5) * (joint - joints[parents[bone]])
        else:
            reach = np.linalg.norm(joints[below] - joint, axis=1).mean(dtype=np.float64)
            tails[bone] = joint + 0.5 * (joint + np.array([0.0, 0.0, 0.5 * reach]))
    return tails


def _names(class_name: str | None, parts: list[str | None], count: int) -> tuple[str, ...]:
    known = PART_BONES.get(class_name or "", {})
    names = [name for part in parts if part in known for name in known[part]]
    if len(names) > count:
        raise MalformedSequenceError(f"its parts have {len(names)} bones, it has {count} joints")
    return (*names, *(f"bone_{bone}" for bone in range(len(names), count)))
