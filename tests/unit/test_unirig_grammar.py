"""Which token may come next. That the parity rule is the reference's: test_unirig_tokenizer."""

import numpy as np
import pytest

from services.inference.unirig_network.grammar import (
    ENDING,
    GRAMMAR,
    SHORTEST,
    Rule,
    start_state,
    state_after,
)
from services.inference.unirig_network.tokenizer import (
    BOS,
    BRANCH,
    CLASS_NONE,
    CLASS_TOKENS,
    EOS,
    PART_TOKENS,
    SPRING,
    decode_skeleton,
)

HEAD = [BOS, CLASS_TOKENS["articulationxl"]]
SPECIAL = [BRANCH, EOS, SPRING, *PART_TOKENS.values()]


def allowed(tokens: list[int]) -> set[int]:
    """What may follow bos, class and these tokens under the strict rule."""
    state = start_state(Rule.STRICT)
    for token in tokens:
        assert GRAMMAR.allowed[state, token]
        state = int(GRAMMAR.following[state, token])
    return set(np.flatnonzero(GRAMMAR.allowed[state]).tolist())


def walk(seed: int, limit: int) -> tuple[list[int], int]:
    """A random sequence under the strict rule that ends in time, and the joints counted."""
    generator = np.random.default_rng(seed)
    state, joints, tokens = start_state(Rule.STRICT), 0, list[int]()
    while EOS not in tokens:
        choice = np.flatnonzero(GRAMMAR.allowed[state])
        if EOS in choice and limit - len(tokens) < ENDING:
            choice = np.array([EOS])
        special = np.intersect1d(choice, SPECIAL)
        pool = special if len(special) and generator.random() < 0.5 else choice
        token = int(generator.choice(pool))
        joints += int(GRAMMAR.joints[state, token])
        state = int(GRAMMAR.following[state, token])
        tokens.append(token)
    return tokens, joints


@pytest.mark.parametrize("limit", [SHORTEST, 13, 40, 200])
def test_whatever_ends_under_the_strict_rule_is_a_skeleton_within_its_limit(limit: int) -> None:
    for seed in range(100):
        tokens, joints = walk(seed, limit)
        assert len(tokens) <= limit
        head = [BOS, CLASS_NONE]
        assert len(decode_skeleton([*head, *tokens]).joints) == joints >= 2


def test_the_strict_rule_wants_two_joints_before_the_end() -> None:
    assert EOS not in allowed([])
    assert EOS not in allowed([1, 2, 3])
    assert EOS in allowed([1, 2, 3, 4, 5, 6])


def test_the_strict_rule_wants_six_coordinates_after_a_branch() -> None:
    for count in range(6):
        assert allowed([1, 2, 3, BRANCH, *range(count)]) == set(range(256)), count
    assert EOS in allowed([1, 2, 3, BRANCH, *range(6)])


def test_the_parity_rule_lets_a_skeleton_be_empty_and_a_branch_be_half() -> None:
    for tokens in (HEAD, [*HEAD, SPRING, SPRING], [*HEAD, 1, 2, 3, BRANCH, 4, 5, 6]):
        assert GRAMMAR.allowed[state_after(tokens), EOS]


def test_joints_are_counted_under_the_parity_rule() -> None:
    tokens = [*HEAD, SPRING, 1, 2, 3, 4, 5, 6, BRANCH, 1, 2, 3, 7, 8, 9, SPRING, 4, 4, 4]
    states = [state_after(tokens[:place]) for place in range(len(tokens))]
    assert GRAMMAR.joints[states, tokens].sum() == 4
