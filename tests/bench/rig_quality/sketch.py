"""A body as joints and the tapered capsules around its bones."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from services.inference.geometry import Skeleton
from tests.bench.rig_quality.metrics import joint_moves

Points = npt.NDArray[np.float64]
Place = tuple[float, float, float]

_MIRROR = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Capsule:
    """A piece of the body around a segment, metres.

    joint: the one that it follows. start, end: (3,). radii: at both ends.
    normal: (3,) the unit direction in which it is flat; thinness: how many times thinner it is
    there, 1 for a round one. loose: a thing of its own that the joint carries, such as a stick.
    """

    joint: int
    start: Points
    end: Points
    radii: tuple[float, float]
    normal: Points
    thinness: float
    loose: bool

    def distances(self, points: Points) -> tuple[Points, Points]:
        """(n,) distances to the surface, negative inside, and (n,) the radius at hand.

        A flat one's are exact where it is thin and a bound elsewhere.
        """
        stretched = self._stretched(points - self.start)
        axis = self._stretched(self.end - self.start)
        along = (stretched @ axis / max(float(axis @ axis), 1e-12)).clip(0, 1)
        radius = self.radii[0] + along * (self.radii[1] - self.radii[0])
        away = np.linalg.norm(stretched - along[..., None] * axis, axis=-1) - radius
        return away / self.thinness, radius / self.thinness

    def _stretched(self, vectors: Points) -> Points:
        across = (vectors @ self.normal)[..., None] * self.normal
        stretched: Points = vectors + (self.thinness - 1) * across
        return stretched

    @property
    def blend(self) -> float:
        """Over how many metres it flows into its neighbours where it is thin."""
        return 0.4 * min(self.radii) / self.thinness

    @property
    def widest_blend(self) -> float:
        """The same along a flat one."""
        return 0.4 * min(self.radii)


class Sketch:
    """Draws a body joint by joint, parents first; joints are known by their names."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        self._parents: list[int] = []
        self._heads: list[Points] = []
        self._radii: list[float] = []
        self._tails: dict[int, Points] = {}
        self.capsules: list[Capsule] = []

    def joint(self, name: str, parent: str | None, place: Place, radius: float) -> str:
        """Adds a joint, and flesh from its parent's joint to it, which the parent moves."""
        above = -1 if parent is None else self._number[parent]
        self._number[name] = len(self._parents)
        self._parents.append(above)
        self._heads.append(np.array(place, float))
        self._radii.append(radius)
        if parent is not None:
            self._tails.setdefault(above, self._heads[-1])
            self.shape(parent, self.place(parent), place, (self._radii[above], radius))
        return name

    def chain(
        self, name: str, parent: str, places: Iterable[Place], radii: tuple[float, float]
    ) -> str:
        """Joints name_1, name_2, … at all places but the last, which is the tip; the last joint."""
        *joints, tip = places
        steps = np.linspace(radii[0], radii[1], len(joints) + 1)
        for number, place in enumerate(joints):
            parent = self.joint(f"{name}_{number + 1}", parent, place, float(steps[number]))
        self.tip(parent, tip, radii[1])
        return parent

    def tip(self, joint: str, place: Place, radius: float) -> None:
        """Where a last joint's bone ends, and flesh to there."""
        number = self._number[joint]
        self._tails[number] = np.array(place, float)
        self.shape(joint, self.place(joint), place, (self._radii[number], radius))

    def shape(
        self,
        joint: str,
        start: Place,
        end: Place,
        radii: tuple[float, float],
        normal: Place = (1.0, 0.0, 0.0),
        thinness: float = 1.0,
        loose: bool = False,
    ) -> None:
        """Flesh that follows a joint."""
        ends = np.array(start, float), np.array(end, float)
        unit = np.array(normal) / np.linalg.norm(normal)
        self.capsules.append(Capsule(self._number[joint], *ends, radii, unit, thinness, loose))

    def place(self, joint: str) -> Place:
        x, y, z = self._heads[self._number[joint]]
        return float(x), float(y), float(z)

    @property
    def skeleton(self) -> Skeleton:
        heads = np.array(self._heads)
        tails = [
            self._tails.get(joint, head + np.array([0, self._radii[joint], 0]))
            for joint, head in enumerate(heads)
        ]
        return Skeleton(
            names=tuple(self._number),
            parents=np.array(self._parents, np.int32),
            heads=heads.astype(np.float32),
            tails=np.array(tails, np.float32),
        )


def random_turns(
    skeleton: Skeleton, random: np.random.Generator, angle: float, mirrored: bool
) -> Points:
    """(J, 3, 3) about random axes; angle: radians, the standard deviation about each world axis.

    mirrored: the right side does what the left does, and the middle only nods.
    """
    vectors = random.normal(0, angle, (len(skeleton.names), 3))
    vectors[0] = 0
    turns = Rotation.from_rotvec(vectors).as_matrix()
    if not mirrored:
        return turns
    number = {name: joint for joint, name in enumerate(skeleton.names)}
    for name, joint in number.items():
        if "left" in name:
            turns[number[name.replace("left", "right")]] = _MIRROR @ turns[joint] @ _MIRROR
        elif "right" not in name:
            turns[joint] = Rotation.from_rotvec([vectors[joint, 0], 0, 0]).as_matrix()
    return turns


def turned(sketch: Sketch, turns: Points) -> tuple[Skeleton, list[Capsule]]:
    """The body in another rest pose."""
    skeleton = sketch.skeleton
    moves = joint_moves(skeleton, turns)

    def moved(joint: int, point: Points) -> Points:
        result: Points = moves[joint, :, :3] @ point + moves[joint, :, 3]
        return result

    joints = range(len(skeleton.names))
    heads = np.array([moved(joint, skeleton.heads[joint]) for joint in joints])
    tails = np.array([moved(joint, skeleton.tails[joint]) for joint in joints])
    capsules = [
        replace(
            capsule,
            start=moved(capsule.joint, capsule.start),
            end=moved(capsule.joint, capsule.end),
            normal=moves[capsule.joint, :, :3] @ capsule.normal,
        )
        for capsule in sketch.capsules
    ]
    posed = replace(skeleton, heads=heads.astype(np.float32), tails=tails.astype(np.float32))
    return posed, capsules
