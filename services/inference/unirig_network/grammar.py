"""Which token may come next: a state machine that is carried along with each sequence.

Both rules are one table, so that sequences under different rules can be looked up together. Under
PARITY, as in the reference, a branch may end after its parent's place and a skeleton may be empty,
neither of which decodes. Under STRICT whatever ends with eos decodes.

Tokens that are not allowed lead on as if they were; such sequences have no probability.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from services.inference.unirig_network.tokenizer import (
    BINS,
    BOS,
    BRANCH,
    CLASS_NONE,
    CLASS_TOKENS,
    EOS,
    PART_TOKENS,
    SPRING,
    VOCABULARY,
)

# The most tokens that a joint and the eos after it take: branch, six coordinates, eos.
ENDING = 8
# The fewest tokens that always suffice for two joints: part, joint, branch with joint, eos.
SHORTEST = 12

_COORDINATES = slice(0, BINS)
_PARTS = [SPRING, *PART_TOKENS.values()]
_CLASSES = [CLASS_NONE, *CLASS_TOKENS.values()]


class Rule(Enum):
    PARITY = "parity"
    STRICT = "strict"


class _State(Enum):
    """What the sequence waits for. ONE: it has one joint. MORE: it has two or more."""

    START = 0
    CLASS = 1
    FIRST = 2
    JOINT = 3
    Y = 4
    Z = 5
    NEXT = 6
    STRICT_FIRST = 7
    ROOT_X = 8
    ROOT_Y = 9
    ROOT_Z = 10
    ONE = 11
    PARENT_X = 12
    PARENT_Y = 13
    PARENT_Z = 14
    STRICT_X = 15
    STRICT_Y = 16
    STRICT_Z = 17
    MORE = 18


@dataclass(frozen=True)
class Grammar:
    """Tables over S states and the vocabulary V.

    allowed: (S, V) bool. following: (S, V) int64, the state after a token.
    joints: (S, V) int64, how many joints a token completes; -1 takes back the joint that the
    parent's place of a branch seems to be under PARITY.
    """

    allowed: npt.NDArray[np.bool_]
    following: npt.NDArray[np.int64]
    joints: npt.NDArray[np.int64]


def start_state(rule: Rule) -> int:
    """The state after bos and class."""
    state = _State.FIRST if rule is Rule.PARITY else _State.STRICT_FIRST
    return int(state.value)


def state_after(tokens: Iterable[int]) -> int:
    """The state under PARITY after a whole sequence from bos on."""
    state = _State.START.value
    for token in tokens:
        state = int(GRAMMAR.following[state, token])
    return state


def _grammar() -> Grammar:
    shape = (len(_State), VOCABULARY)
    allowed = np.zeros(shape, dtype=bool)
    following = np.repeat(np.arange(shape[0])[:, None], shape[1], axis=1)
    joints = np.zeros(shape, dtype=np.int64)

    def allow(state: _State, tokens: int | list[int] | slice, then: _State, joint: int = 0) -> None:
        allowed[state.value, tokens] = True
        following[state.value, tokens] = then.value
        joints[state.value, tokens] = joint

    allow(_State.START, BOS, _State.CLASS)
    allow(_State.CLASS, _CLASSES, _State.FIRST)
    allow(_State.CLASS, _PARTS, _State.JOINT)
    allow(_State.CLASS, _COORDINATES, _State.Y)
    allow(_State.FIRST, _PARTS, _State.FIRST)
    allow(_State.FIRST, EOS, _State.JOINT)
    allow(_State.FIRST, _COORDINATES, _State.Y)
    allow(_State.JOINT, _COORDINATES, _State.Y)
    allow(_State.Y, _COORDINATES, _State.Z)
    allow(_State.Z, _COORDINATES, _State.NEXT, joint=1)
    allow(_State.NEXT, BRANCH, _State.JOINT, joint=-1)
    allow(_State.NEXT, [*_PARTS, EOS], _State.JOINT)
    allow(_State.NEXT, _COORDINATES, _State.Y)

    allow(_State.STRICT_FIRST, _PARTS, _State.ROOT_X)
    allow(_State.STRICT_FIRST, _COORDINATES, _State.ROOT_Y)
    allow(_State.ROOT_X, _COORDINATES, _State.ROOT_Y)
    allow(_State.ROOT_Y, _COORDINATES, _State.ROOT_Z)
    allow(_State.ROOT_Z, _COORDINATES, _State.ONE, joint=1)
    for state in (_State.ONE, _State.MORE):
        allow(state, BRANCH, _State.PARENT_X)
        allow(state, _PARTS, _State.STRICT_X)
        allow(state, _COORDINATES, _State.STRICT_Y)
    allow(_State.MORE, EOS, _State.MORE)
    allow(_State.PARENT_X, _COORDINATES, _State.PARENT_Y)
    allow(_State.PARENT_Y, _COORDINATES, _State.PARENT_Z)
    allow(_State.PARENT_Z, _COORDINATES, _State.STRICT_X)
    allow(_State.STRICT_X, _COORDINATES, _State.STRICT_Y)
    allow(_State.STRICT_Y, _COORDINATES, _State.STRICT_Z)
    allow(_State.STRICT_Z, _COORDINATES, _State.MORE, joint=1)
    return Grammar(allowed, following, joints)


GRAMMAR = _grammar()
