"""A curve skeleton as a dense tree of points, and what is done to it as a tree."""

from dataclasses import dataclass

import numpy as np

from services.inference.geometric.solid import Bits
from services.inference.geometric.surface import Indices, Points


@dataclass(frozen=True)
class CurveTree:
    """N points along the medial curves of a solid. Point 0 is the root; parents come first.

    points: (N, 3) body units. radii: (N,) distance to the surface there.
    parents: (N,) -1 for the root alone.
    """

    points: Points
    radii: Points
    parents: Indices

    @property
    def children(self) -> list[list[int]]:
        children: list[list[int]] = [[] for _ in self.parents]
        for point, parent in enumerate(self.parents[1:], start=1):
            children[parent].append(point)
        return children

    @property
    def tips(self) -> list[int]:
        """The points without children, the root left out."""
        return [i for i, below in enumerate(self.children) if i and not below]

    def path_up(self, point: int) -> list[int]:
        """From a point to the root, both included."""
        path = [point]
        while self.parents[path[-1]] >= 0:
            path.append(int(self.parents[path[-1]]))
        return path

    def length(self, path: list[int]) -> float:
        return float(np.linalg.norm(np.diff(self.points[path], axis=0), axis=1).sum())


def travelled(points: Points) -> Points:
    """How far along a curve (n, 3) each of its points is from the first, (n,)."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    return np.asarray(np.concatenate([[0.0], np.cumsum(steps)]))


def keep_points(tree: CurveTree, kept: Bits) -> CurveTree:
    """The tree without the points that are not kept; with a point all above it must be kept."""
    index = np.cumsum(kept) - 1
    parents = tree.parents[kept]
    return CurveTree(
        points=tree.points[kept],
        radii=tree.radii[kept],
        parents=np.where(parents < 0, -1, index[parents]),
    )


def reroot(tree: CurveTree, root: int) -> CurveTree:
    """The same tree hung from another of its points."""
    parents = tree.parents.copy()
    path = tree.path_up(root)
    parents[path[1:]] = path[:-1]
    parents[root] = -1
    children: list[list[int]] = [[] for _ in parents]
    for point, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(point)
    order, pending = [], [root]
    while pending:
        point = pending.pop()
        order.append(point)
        pending.extend(reversed(children[point]))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    parents = parents[order]
    return CurveTree(
        points=tree.points[order],
        radii=tree.radii[order],
        parents=np.where(parents < 0, -1, rank[parents]),
    )


def prune(tree: CurveTree, reach: float, shortest: float) -> CurveTree:
    """Cut twigs that hardly leave the body they grow from.

    A twig goes when it is no longer than reach times the radius at its fork, or when what
    sticks out of that radius is shorter than shortest. The shortest twig goes first, since a
    cut may end a fork.
    """
    while True:
        children = tree.children
        worst: tuple[float, list[int]] | None = None
        for tip in tree.tips:
            twig = [tip]
            while tree.parents[twig[-1]] > 0 and len(children[tree.parents[twig[-1]]]) == 1:
                twig.append(int(tree.parents[twig[-1]]))
            fork = int(tree.parents[twig[-1]])
            length = tree.length([*twig, fork])
            radius = float(tree.radii[fork])
            if (length < reach * radius or length - radius < shortest) and (
                worst is None or length < worst[0]
            ):
                worst = (length, twig)
        if worst is None:
            return tree
        kept = np.ones(len(tree.parents), dtype=bool)
        kept[worst[1]] = False
        tree = keep_points(tree, kept)


def smooth(tree: CurveTree, rounds: int) -> CurveTree:
    """Move each point inside a branch to the mean of itself and its two neighbours, repeatedly.

    Root, forks and tips stay.
    """
    children = tree.children
    inner = np.array([i for i, c in enumerate(children) if i and len(c) == 1], dtype=np.int64)
    points = tree.points
    if len(inner):
        below = np.array([children[i][0] for i in inner])
        for _ in range(rounds):
            moved = points.copy()
            moved[inner] = (points[inner] + points[tree.parents[inner]] + points[below]) / 3
            points = moved
    return CurveTree(points=points, radii=tree.radii, parents=tree.parents)
