"""The three values that every rigging stage passes on.

Axes and units are those of glTF 2.0 (section 3.4): right-handed, +Y up, the model facing +Z,
metres. Importers and exporters convert at the edge; nothing in between converts again.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Mesh:
    """All parts of a model as one triangle soup in its rest pose, in world space.

    vertices: (N, 3) float32, metres, +Y up.
    faces: (F, 3) int32, indices into vertices; windings and closedness are not promised.
    parts: (F,) int32, which part each face belongs to: an index into part_names.
    part_names: the names of the parts, as the file gives them.
    """

    vertices: Float
    faces: Int
    parts: Int
    part_names: tuple[str, ...]

    @property
    def extent(self) -> float:
        """The longest side of the axis-aligned bounding box, in metres."""
        return float(np.ptp(self.vertices, axis=0).max())


@dataclass(frozen=True)
class Skeleton:
    """A tree of J joints in rest pose. Joint 0 is the only root; parents come before children.

    names: J unique names.
    parents: (J,) int32, the parent's index, -1 for joint 0 alone.
    heads: (J, 3) float32, the joints: where each bone turns, metres, +Y up.
    tails: (J, 3) float32, the far end of each bone: a child's head, or the tip of a leaf.
    """

    names: tuple[str, ...]
    parents: Int
    heads: Float
    tails: Float


@dataclass(frozen=True)
class SkinWeights:
    """How much each vertex follows each joint: K influences a vertex, strongest first.

    joints: (N, K) int32, indices into the skeleton; 0 where the weight is 0.
    weights: (N, K) float32, >= 0, each row sums to 1.
    """

    joints: Int
    weights: Float


def save_mesh(path: Path, mesh: Mesh) -> None:
    np.savez(
        path,
        vertices=mesh.vertices,
        faces=mesh.faces,
        parts=mesh.parts,
        part_names=np.array(mesh.part_names, dtype=np.str_),
    )


def load_mesh(path: Path) -> Mesh:
    with np.load(path, allow_pickle=False) as arrays:
        return Mesh(
            vertices=arrays["vertices"].astype(np.float32),
            faces=arrays["faces"].astype(np.int32),
            parts=arrays["parts"].astype(np.int32),
            part_names=tuple(str(name) for name in arrays["part_names"]),
        )


def save_skeleton(path: Path, skeleton: Skeleton) -> None:
    np.savez(
        path,
        names=np.array(skeleton.names, dtype=np.str_),
        parents=skeleton.parents,
        heads=skeleton.heads,
        tails=skeleton.tails,
    )


def load_skeleton(path: Path) -> Skeleton:
    with np.load(path, allow_pickle=False) as arrays:
        return Skeleton(
            names=tuple(str(name) for name in arrays["names"]),
            parents=arrays["parents"].astype(np.int32),
            heads=arrays["heads"].astype(np.float32),
            tails=arrays["tails"].astype(np.float32),
        )


def save_weights(path: Path, skin: SkinWeights) -> None:
    np.savez(path, joints=skin.joints, weights=skin.weights)


def load_weights(path: Path) -> SkinWeights:
    with np.load(path, allow_pickle=False) as arrays:
        return SkinWeights(
            joints=arrays["joints"].astype(np.int32), weights=arrays["weights"].astype(np.float32)
        )
