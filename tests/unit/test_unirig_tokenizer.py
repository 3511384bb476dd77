"""Skeletons as tokens and back."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from services.inference.unirig_network.parity_skeleton import (
    sequence_comparisons,
    tokenizer_comparisons,
)
from services.inference.unirig_network.tokenizer import (
    BINS,
    BOS,
    BRANCH,
    CLASS_NONE,
    CLASS_TOKENS,
    EOS,
    PAD,
    PART_BONES,
    PART_TOKENS,
    SPRING,
    MalformedSequenceError,
    class_token,
    decode_skeleton,
    dequantise,
    encode_skeleton,
    order_bones,
    quantise,
)

REFERENCE = Path(__file__).parents[3] / "shared" / "golden"
HEAD = [BOS, CLASS_TOKENS["articulationxl"]]
TWO_JOINTS = [128, 128, 100, 128, 128, 130]


def reference(name: str) -> Path:
    path = REFERENCE / name
    if not path.is_file():
        pytest.skip(f"the reference's outputs are not beside the checkout ({path})")
    return path


def test_grammar_and_decoding_are_those_of_the_reference() -> None:
    comparisons = list(tokenizer_comparisons(reference("tokenizer.pt")))
    assert comparisons
    assert [c for c in comparisons if not c.holds] == []


def test_skeletons_have_the_tokens_that_the_reference_gives_them() -> None:
    comparisons = list(sequence_comparisons(reference("data_ar_transform.pt")))
    assert comparisons
    assert [c for c in comparisons if not c.holds] == []


def test_a_coordinate_goes_to_the_nearest_edge_of_a_bin_halves_to_even() -> None:
    np.testing.assert_array_equal(quantise([-1, 0, 1, 2, -3]), [0, 128, 255, 255, 0])
    np.testing.assert_array_equal(quantise([0.5 / 128, 1.5 / 128]), [128, 130])


def test_a_round_trip_is_half_a_bin_off_as_in_the_reference_unless_unbiased() -> None:
    places = np.linspace(-1, 0.99, 5001)
    biased = dequantise(quantise(places)) - places
    unbiased = dequantise(quantise(places), unbiased=True) - places
    assert biased.mean() == pytest.approx(1 / 256, abs=1e-5)
    assert unbiased.mean() == pytest.approx(0, abs=1e-5)
    assert np.abs(unbiased).max() <= 1 / 256 + 1e-6


def test_tokens_survive_a_round_trip() -> None:
    tokens = [*HEAD, SPRING, *TWO_JOINTS, 9, 8, 7, BRANCH, 128, 128, 130, 1, 2, 3, EOS]
    skeleton = decode_skeleton(tokens, unbiased=True)
    assert skeleton.parents.tolist() == [-1, 0, 1, 1]
    again = encode_skeleton(skeleton.joints, skeleton.parents.tolist(), skeleton.class_name)
    assert again == tokens


def test_a_branch_hangs_from_the_latest_of_equally_near_joints() -> None:
    twice = [10, 10, 10, 10, 10, 10, 90, 90, 90]
    tokens = [*HEAD, *twice, BRANCH, 10, 10, 10, 50, 50, 50, EOS]
    assert decode_skeleton(tokens).parents.tolist() == [-1, 0, 1, 1]


@pytest.mark.parametrize("class_name", ["vroid", "mixamo"])
def test_a_humanoid_is_written_in_the_order_of_its_parts_and_keeps_its_names(
    class_name: str,
) -> None:
    parts = PART_BONES[class_name]
    names = [*parts["body"], *parts["hand"], "tail"]
    parents = [-1, *range(len(names) - 1)]
    joints = np.linspace(-0.9, 0.9, 3 * len(names)).reshape(-1, 3)
    tokens = encode_skeleton(joints, parents, class_name, names)
    assert (len(parts["body"]), len(parts["hand"])) == (22, 30)
    assert tokens[:3] == [BOS, CLASS_TOKENS[class_name], PART_TOKENS["body"]]
    skeleton = decode_skeleton(tokens)
    assert skeleton.names == (*names[:-1], "bone_52")
    assert skeleton.parts == ("body", "hand", None)
    assert skeleton.class_name == class_name


def test_a_humanoid_without_hands_has_no_marker_for_them() -> None:
    names = [*PART_BONES["vroid"]["body"], *PART_BONES["vroid"]["hand"][:-1]]
    bones = order_bones(names, [-1, *range(len(names) - 1)], "vroid")
    assert bones.markers == {0: PART_TOKENS["body"], 22: SPRING}
    assert bones.order == tuple(range(len(names)))


def test_no_class_has_a_token_too() -> None:
    assert class_token(None) == CLASS_NONE
    assert decode_skeleton([BOS, CLASS_NONE, *TWO_JOINTS, EOS]).class_name is None


def test_pads_behind_the_end_are_ignored() -> None:
    assert len(decode_skeleton([*HEAD, *TWO_JOINTS, EOS, PAD, PAD]).joints) == 2


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        [BOS],
        [BOS, EOS],
        [*HEAD, EOS],
        [*HEAD, *TWO_JOINTS],
        [*HEAD[1:], *TWO_JOINTS, EOS],
        [BOS, *TWO_JOINTS, EOS],
        [*HEAD, 1, 2, 3, EOS],
        [*HEAD, *TWO_JOINTS, 1, 2, EOS],
        [*HEAD, *TWO_JOINTS, 1, SPRING, 2, EOS],
        [*HEAD, *TWO_JOINTS, BRANCH, 1, 2, 3, EOS],
        [*HEAD, *TWO_JOINTS, BRANCH, 1, 2, 3, BRANCH, 1, 2, 3, 4, 5, 6, EOS],
        [*HEAD, *TWO_JOINTS, EOS, 1, 2, 3, EOS],
        [*HEAD, *TWO_JOINTS, BINS + 20, EOS],
        [BOS, CLASS_TOKENS["vroid"], PART_TOKENS["body"], *TWO_JOINTS, EOS],
    ],
)
def test_a_malformed_sequence_is_refused(tokens: list[int]) -> None:
    with pytest.raises(MalformedSequenceError):
        decode_skeleton(tokens)


def test_tokenizer_and_grammar_need_no_torch() -> None:
    program = (
        "import sys, services.inference.unirig_network.grammar; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
