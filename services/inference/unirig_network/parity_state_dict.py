"""The full-size models' state dicts against the official checkpoints' lists of names and shapes.

A list is unirig_ar_state_dict*.json (the skeleton model) or unirig_skin_state_dict*.json (the skin
model): an object from name, with its leading `model.`, to shape.
"""

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path

from services.inference.unirig_network.checkpoint_kinds import Kind
from services.inference.unirig_network.comparison import Comparison
from services.inference.unirig_network.expected_state import expected_state

_PREFIX = "model."


def skeleton_state_comparisons(path: Path) -> Iterator[Comparison]:
    """How many names, shapes and values the skeleton model has otherwise, of which none may."""
    return _state_comparisons(path, "skeleton")


def skin_state_comparisons(path: Path) -> Iterator[Comparison]:
    """How many names, shapes and values the skin model has otherwise, of which none may."""
    return _state_comparisons(path, "skin")


def _state_comparisons(path: Path, kind: Kind) -> Iterator[Comparison]:
    listed = {name: tuple(shape) for name, shape in json.loads(path.read_text()).items()}
    own = {_PREFIX + name: tuple(value.shape) for name, value in expected_state(kind).items()}
    both = listed.keys() & own.keys()
    wrong = sum(listed[name] != own[name] for name in both)
    values = abs(sum(map(prod, listed.values())) - sum(map(prod, own.values())))
    label = f"{path.name} of {len(listed)} names:"
    yield Comparison(f"{label} missing or unexpected", len(listed.keys() ^ own.keys()), 0)
    yield Comparison(f"{label} other shapes", wrong, 0)
    yield Comparison(f"{label} values too many or too few", values, 0)
