"""Choosing tokens, and many requests in one loop."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch

from services.inference.unirig_network.decoding_loop import (
    DecodingLoop,
    Finished,
    LoopCounters,
    NoFreeSlotError,
    Progress,
    Request,
)
from services.inference.unirig_network.generation import (
    DecodingSettings,
    SlotSettings,
    draw,
    next_scores,
)
from services.inference.unirig_network.grammar import GRAMMAR, Rule, state_after
from services.inference.unirig_network.shape_encoder import ShapeEncoderConfig
from services.inference.unirig_network.skeleton_model import (
    SkeletonModel,
    SkeletonModelConfig,
    load_skeleton_model,
)
from services.inference.unirig_network.skeleton_transformer import TransformerConfig
from services.inference.unirig_network.tokenizer import (
    BOS,
    CLASS_TOKENS,
    EOS,
    VOCABULARY,
    decode_skeleton,
)

SMALL = SkeletonModelConfig(
    encoder=ShapeEncoderConfig(width=32, heads=4, layers=1, tokens=16),
    transformer=TransformerConfig(layers=2, hidden=64, heads=4, inner=96, positions=200),
)
CPU = torch.device("cpu")

UPSTREAM = DecodingSettings(beams=4, max_tokens=30)
BEAMS = replace(UPSTREAM, sample=False)
GREEDY = replace(BEAMS, beams=1)
PLAIN = replace(UPSTREAM, beams=1, repetition_penalty=1.0)
STRICT = replace(UPSTREAM, rule=Rule.STRICT, max_tokens=40)


@pytest.fixture(scope="module")
def model() -> SkeletonModel:
    """Random weights under which the layers count for more than a token's own embedding."""
    torch.manual_seed(0)
    weights = SkeletonModel(SMALL).state_dict()
    for key, value in weights.items():
        value.mul_(0.05 if "embed_tokens" in key else 2.0 if "proj.weight" in key else 1.0)
    return load_skeleton_model(SMALL, weights)


def request(settings: DecodingSettings, seed: int = 0) -> Request:
    generator = torch.Generator().manual_seed(seed)
    return Request(torch.randn(16, 64, generator=generator), "articulationxl", settings, seed)


def run(loop: DecodingLoop) -> dict[int, tuple[int, ...]]:
    """The sequence of each ticket, once the loop is empty."""
    sequences = {}
    while loop.active:
        sequences |= finished(loop.step())
    return sequences


def finished(events: Iterable[Progress | Finished]) -> dict[int, tuple[int, ...]]:
    return {event.ticket: event.sequence for event in events if isinstance(event, Finished)}


def alone(model: SkeletonModel, asked: Request, slots: int = 3, beams: int = 4) -> tuple[int, ...]:
    loop = DecodingLoop(model, slots=slots, beams=beams, max_tokens=100)
    ticket = loop.add(asked)
    return run(loop)[ticket]


def test_requests_together_get_the_tokens_that_each_gets_alone(model: SkeletonModel) -> None:
    asked = [request(settings, seed) for seed, settings in enumerate((UPSTREAM, GREEDY, PLAIN))]
    later = request(BEAMS, seed=3)
    loop = DecodingLoop(model, slots=3, beams=4, max_tokens=100)
    tickets, sequences = [loop.add(asked[0]), loop.add(asked[1])], {}
    for _ in range(7):
        sequences |= finished(loop.step())
    tickets.append(loop.add(asked[2]))
    while not loop.free_slots:
        sequences |= finished(loop.step())
    tickets.append(loop.add(later))
    sequences |= run(loop)
    expected = [alone(model, one) for one in (*asked, later)]
    assert [sequences[ticket] for ticket in tickets] == expected
    assert len(set(expected)) == 4


def test_a_wider_loop_gives_the_same_tokens(model: SkeletonModel) -> None:
    for settings in (UPSTREAM, BEAMS, GREEDY, PLAIN, STRICT):
        asked = request(settings, seed=5)
        fitting = alone(model, asked, slots=1, beams=settings.beams)
        assert alone(model, asked, slots=2, beams=6) == fitting, settings


def test_two_requests_share_their_steps(model: SkeletonModel) -> None:
    loop = DecodingLoop(model, slots=2, beams=4, max_tokens=30)
    loop.add(request(UPSTREAM))
    loop.add(request(GREEDY))
    for _ in range(5):
        loop.step()
    assert loop.counters == LoopCounters(steps=5, rows=25, shared_steps=5)


def test_a_seed_decides_what_is_sampled(model: SkeletonModel) -> None:
    asked = request(UPSTREAM, seed=1)
    assert alone(model, asked) == alone(model, asked)
    assert len({alone(model, replace(asked, seed=seed)) for seed in range(4)}) > 1


def test_each_step_tells_how_far_a_request_is(model: SkeletonModel) -> None:
    loop = DecodingLoop(model, slots=1, beams=4, max_tokens=40)
    ticket = loop.add(request(STRICT))
    events = [loop.step() for _ in range(8)]
    assert all(len(step) == 1 for step in events)
    steps = [event for step in events for event in step if isinstance(event, Progress)]
    assert [step.tokens for step in steps] == list(range(1, 9))
    assert {(step.ticket, step.limit) for step in steps} == {(ticket, 40)}
    assert steps[0].joints == 0
    assert steps[-1].joints >= 1


def test_a_cancelled_request_frees_its_slot_at_once_and_disturbs_nobody(
    model: SkeletonModel,
) -> None:
    loop = DecodingLoop(model, slots=2, beams=4, max_tokens=100)
    cancelled, staying = loop.add(request(BEAMS, seed=1)), loop.add(request(UPSTREAM, seed=2))
    loop.step()
    assert loop.cancel(cancelled)
    assert not loop.cancel(cancelled)
    assert loop.free_slots == 1
    assert [event.ticket for event in loop.step()] == [staying]
    successor = loop.add(request(PLAIN, seed=3))
    sequences = run(loop)
    assert set(sequences) == {staying, successor}
    assert sequences[staying] == alone(model, request(UPSTREAM, seed=2))
    assert sequences[successor] == alone(model, request(PLAIN, seed=3))


def test_an_empty_loop_does_no_step(model: SkeletonModel) -> None:
    loop = DecodingLoop(model, slots=1, beams=1, max_tokens=30)
    assert loop.step() == []
    assert loop.counters.steps == 0


def test_a_warm_loop_gives_the_same_tokens(model: SkeletonModel) -> None:
    loop = DecodingLoop(model, slots=3, beams=4, max_tokens=100)
    loop.warm_up()
    asked = request(UPSTREAM, seed=4)
    ticket = loop.add(asked)
    assert run(loop)[ticket] == alone(model, asked)
    loop.add(asked)
    with pytest.raises(RuntimeError, match="in use"):
        loop.warm_up()


def test_what_does_not_fit_is_refused(model: SkeletonModel) -> None:
    loop = DecodingLoop(model, slots=1, beams=4, max_tokens=30)
    with pytest.raises(ValueError, match="4 beams and 30 tokens"):
        loop.add(request(replace(UPSTREAM, beams=5)))
    with pytest.raises(ValueError, match="4 beams and 30 tokens"):
        loop.add(request(replace(UPSTREAM, max_tokens=31)))
    loop.add(request(UPSTREAM))
    with pytest.raises(NoFreeSlotError):
        loop.add(request(UPSTREAM))
    with pytest.raises(ValueError, match="no positions"):
        DecodingLoop(model, slots=1, beams=4, max_tokens=200)


def test_a_request_without_memory_leaves_its_slot_free(
    model: SkeletonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = DecodingLoop(model, slots=2, beams=4, max_tokens=100)
    ticket = loop.add(request(UPSTREAM, seed=2))
    with monkeypatch.context() as patch:
        patch.setattr(model.transformer, "prefill", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            loop.add(request(BEAMS))
    assert loop.free_slots == 1
    assert run(loop)[ticket] == alone(model, request(UPSTREAM, seed=2))


def test_a_step_without_memory_can_be_tried_again(
    model: SkeletonModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = DecodingLoop(model, slots=2, beams=4, max_tokens=100)
    ticket, dropped = loop.add(request(UPSTREAM, seed=2)), loop.add(request(BEAMS))
    loop.step()
    with monkeypatch.context() as patch:
        patch.setattr(model.transformer, "step", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            loop.step()
    assert loop.cancel(dropped)
    assert run(loop)[ticket] == alone(model, request(UPSTREAM, seed=2))


def out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("provoked")


@pytest.mark.parametrize("settings", [STRICT, replace(STRICT, sample=False)])
@pytest.mark.parametrize("limit", [12, 13, 25, 40])
def test_under_the_strict_rule_every_request_ends_as_a_skeleton(
    model: SkeletonModel, settings: DecodingSettings, limit: int
) -> None:
    loop = DecodingLoop(model, slots=3, beams=4, max_tokens=40)
    for seed in range(3):
        loop.add(request(replace(settings, max_tokens=limit), seed))
    for sequence in run(loop).values():
        assert len(sequence) - 2 <= limit
        assert len(decode_skeleton(sequence).joints) >= 2


def test_a_skeleton_ends_with_the_most_joints_that_it_may_have(model: SkeletonModel) -> None:
    settings = replace(STRICT, max_tokens=100, max_joints=3)
    for seed in range(3):
        assert len(decode_skeleton(alone(model, request(settings, seed))).joints) <= 3


@torch.no_grad()
def test_greedy_decoding_takes_the_best_token_of_a_whole_pass_also_in_long_sequences(
    model: SkeletonModel,
) -> None:
    asked = request(replace(GREEDY, repetition_penalty=1.0, max_tokens=100))
    sequence = alone(model, asked)
    logits = model(asked.condition[None], torch.tensor([sequence]))[0]
    for place in range(2, len(sequence)):
        allowed = torch.from_numpy(GRAMMAR.allowed[state_after(sequence[:place])])
        best = logits[place - 1].masked_fill(~allowed, -torch.inf).argmax()
        assert best == sequence[place], place
    assert sequence[:2] == (BOS, CLASS_TOKENS["articulationxl"])
    assert len(sequence) > 2 + 64 or sequence[-1] == EOS


def slot_settings(settings: DecodingSettings) -> SlotSettings:
    slots = SlotSettings.empty(1, CPU)
    slots.write(0, settings)
    return slots


def test_draws_are_those_of_torch_multinomial() -> None:
    scores = torch.randn(1, 4, VOCABULARY, generator=torch.Generator().manual_seed(1))
    beam_scores = torch.tensor([[0.0, -1.0, -2.0, -3.0]])
    noise = torch.empty(1, 4 * VOCABULARY)
    noise.exponential_(generator=torch.Generator().manual_seed(9))
    candidates = draw(scores, beam_scores, noise, slot_settings(UPSTREAM))
    probabilities = (scores + beam_scores.unsqueeze(2)).flatten(1).softmax(dim=-1)
    expected = torch.multinomial(probabilities, 8, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(candidates.beams * VOCABULARY + candidates.tokens, expected)


def test_top_k_and_top_p_cut_what_is_improbable() -> None:
    probabilities = torch.full((VOCABULARY,), 1e-9)
    probabilities[:6] = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.04, 0.01])
    logits = probabilities.log().expand(1, 1, -1)
    nothing = torch.zeros(1, 1, VOCABULARY, dtype=torch.bool)

    def kept(**changes: float) -> list[int]:
        settings = replace(PLAIN, temperature=1.0, **changes)  # type: ignore[arg-type]
        scores = next_scores(logits, nothing, ~nothing, slot_settings(settings))
        return torch.flatten(scores.isfinite().nonzero()[:, 2]).tolist()

    assert kept(top_k=4, top_p=1.0) == [0, 1, 2, 3]
    assert kept(top_k=VOCABULARY, top_p=0.8) == [0, 1, 2]
    assert kept(top_k=5, top_p=0.1) == [0]
    assert kept(top_k=5, top_p=0.1, beams=2) == [0, 1]


def test_a_repeated_token_becomes_less_probable() -> None:
    logits = torch.zeros(1, 1, VOCABULARY)
    logits[..., :2] = torch.tensor([3.0, -3.0])
    everything = torch.ones(1, 1, VOCABULARY, dtype=torch.bool)
    settings = slot_settings(replace(GREEDY, repetition_penalty=3.0))
    scores = next_scores(logits, everything, everything, settings)
    assert scores[0, 0, :3].tolist() == [1.0, -9.0, 0.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"beams": 0},
        {"temperature": 0.0},
        {"top_k": 0},
        {"top_k": VOCABULARY + 1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"repetition_penalty": 0.0},
        {"max_tokens": 0},
        {"max_tokens": 11, "rule": Rule.STRICT},
        {"max_joints": 5},
        {"max_joints": 1, "rule": Rule.STRICT},
    ],
)
def test_settings_out_of_bounds_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        DecodingSettings(**changes)  # type: ignore[arg-type]
