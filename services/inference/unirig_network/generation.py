"""How tokens are chosen: sampled beam search, beam search, sampling, greedy (UniRig, section 4).

All functions work on S slots, each of which holds a request of its own with up to B beams, over a
vocabulary V. They are pure, their shapes are static and they never wait for the device. The rules
are those of Hugging Face's generate (transformers 4.51), of whose beam search every request is a
batch of one; in particular
- the penalty for repetition works on log-probabilities in a beam search, else on logits;
- a request with one beam is decoded greedily or sampled plainly, without a score;
- a beam search draws twice as many candidates as it has beams, and ends when no beam that runs
  can beat the worst of as many finished ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from services.inference.unirig_network.grammar import (
    ENDING,
    GRAMMAR,
    SHORTEST,
    Rule,
    start_state,
)
from services.inference.unirig_network.tokenizer import EOS, VOCABULARY

# What takes a candidate out of the running, or stands for a finished sequence that is not there.
_OUT = -1e9
_UNLIMITED = 1 << 30
# Nothing is written here yet: in sequences and ancestors.
_NOTHING = -1


@dataclass(frozen=True)
class DecodingSettings:
    """How one request is decoded; the defaults are the reference's.

    sample: draw tokens; else the most probable ones, and temperature, top_k, top_p do nothing.
    max_tokens: the most generated tokens, eos included. max_joints: under the strict rule, a
    skeleton ends when it has so many.
    """

    beams: int = 15
    sample: bool = True
    temperature: float = 1.5
    top_k: int = 5
    top_p: float = 0.95
    repetition_penalty: float = 3.0
    max_tokens: int = 2048
    rule: Rule = Rule.PARITY
    max_joints: int | None = None

    def __post_init__(self) -> None:
        strict = self.rule is Rule.STRICT
        bounds = {
            "beams": self.beams >= 1,
            "temperature": self.temperature > 0,
            "top_k": 1 <= self.top_k <= VOCABULARY,
            "top_p": 0 < self.top_p <= 1,
            "repetition_penalty": self.repetition_penalty > 0,
            "max_tokens": self.max_tokens >= (SHORTEST if strict else 1),
            "max_joints": self.max_joints is None or (strict and self.max_joints >= 2),
        }
        for name, holds in bounds.items():
            if not holds:
                raise ValueError(f"{name} must not be {getattr(self, name)} ({self.rule.value})")


@dataclass(frozen=True)
class SlotSettings:
    """The settings of each slot as tensors (S, 1), so that one kernel serves them all.

    tail: what top_p leaves out, 1 - top_p.
    """

    beams: Tensor
    sample: Tensor
    temperature: Tensor
    top_k: Tensor
    tail: Tensor
    repetition_penalty: Tensor
    max_tokens: Tensor
    strict: Tensor
    max_joints: Tensor

    @staticmethod
    def empty(slots: int, device: torch.device) -> "SlotSettings":
        def column(value: float | int | bool) -> Tensor:
            return torch.full((slots, 1), value, device=device)

        return SlotSettings(
            beams=column(1),
            sample=column(False),
            temperature=column(1.0),
            top_k=column(1),
            tail=column(0.0),
            repetition_penalty=column(1.0),
            max_tokens=column(1),
            strict=column(False),
            max_joints=column(_UNLIMITED),
        )

    def write(self, slot: int, settings: DecodingSettings) -> None:
        self.beams[slot] = settings.beams
        self.sample[slot] = settings.sample
        self.temperature[slot] = settings.temperature
        self.top_k[slot] = settings.top_k
        self.tail[slot] = 1 - settings.top_p
        self.repetition_penalty[slot] = settings.repetition_penalty
        self.max_tokens[slot] = settings.max_tokens
        self.strict[slot] = settings.rule is Rule.STRICT
        self.max_joints[slot] = settings.max_joints or _UNLIMITED


@dataclass(frozen=True)
class GrammarTables:
    """The grammar on the device; see Grammar."""

    allowed: Tensor
    following: Tensor
    joints: Tensor

    @staticmethod
    def on(device: torch.device) -> "GrammarTables":
        return GrammarTables(
            allowed=torch.from_numpy(GRAMMAR.allowed).to(device),
            following=torch.from_numpy(GRAMMAR.following).to(device),
            joints=torch.from_numpy(GRAMMAR.joints).to(device),
        )


@dataclass(frozen=True)
class Search:
    """How far each slot has come. L: the most tokens.

    steps: (S, 1) int64, tokens generated so far. over: (S, 1) bool.
    Of the running beams, the best first, (S, B) each: tokens, their last; scores, sums of
    log-probabilities; states of the grammar; joints, how many are complete.
    seen: (S, B, V) bool, the tokens that a beam has. sequences: (S, B, L) int64.
    ancestors: (S, B, L) int64, the beam row that a beam descended from at each step.
    Of the finished, the best first: finished_sequences (S, B, L) int64; finished_scores (S, B);
    finished (S, B) bool, whether there is one.
    """

    steps: Tensor
    over: Tensor
    tokens: Tensor
    scores: Tensor
    states: Tensor
    joints: Tensor
    seen: Tensor
    sequences: Tensor
    ancestors: Tensor
    finished_sequences: Tensor
    finished_scores: Tensor
    finished: Tensor

    @staticmethod
    def empty(slots: int, beams: int, steps: int, device: torch.device) -> "Search":
        """No slot in use."""

        def filled(shape: tuple[int, ...], value: float | int | bool) -> Tensor:
            return torch.full(shape, value, device=device)

        rows = (slots, beams)
        return Search(
            steps=filled((slots, 1), 0),
            over=filled((slots, 1), True),
            tokens=filled(rows, EOS),
            scores=filled(rows, 0.0),
            states=filled(rows, 0),
            joints=filled(rows, 0),
            seen=filled((*rows, VOCABULARY), False),
            sequences=filled((*rows, steps), _NOTHING),
            ancestors=filled((*rows, steps), _NOTHING),
            finished_sequences=filled((*rows, steps), _NOTHING),
            finished_scores=filled(rows, _OUT),
            finished=filled(rows, False),
        )

    def start(self, slot: int, settings: DecodingSettings) -> None:
        """Put a slot at the start of a request. Its beams are all alike, so only one counts."""
        self.steps[slot] = 0
        self.scores[slot] = -torch.inf
        self.scores[slot, : settings.beams] = _OUT
        self.scores[slot, 0] = 0.0
        self.states[slot] = start_state(settings.rule)
        self.joints[slot] = 0
        self.seen[slot] = False
        self.sequences[slot] = _NOTHING
        self.ancestors[slot] = _NOTHING
        self.finished_sequences[slot] = _NOTHING
        self.finished_scores[slot] = _OUT
        self.finished[slot] = False
        self.over[slot] = False

    def stop(self, slot: int) -> None:
        """Let a slot rest until it is started again."""
        self.over[slot] = True

    def best(self, slot: int) -> list[int]:
        """The best finished sequence of a slot."""
        return [token for token in self.finished_sequences[slot, 0].tolist() if token != _NOTHING]


@dataclass(frozen=True)
class Candidates:
    """Drawn continuations in the order of drawing, (S, 2B) each: score, beam and token.

    drawn: bool; where it is not set there was no draw.
    """

    scores: Tensor
    beams: Tensor
    tokens: Tensor
    drawn: Tensor


def advance(
    search: Search,
    logits: Tensor,
    noise: Tensor,
    settings: SlotSettings,
    grammar: GrammarTables,
) -> Search:
    """One token further in every slot that is not over.

    logits: (S, B, V) float32, after the last token of each beam.
    noise: (S, B * V) float32 > 0, exponentially distributed; see draw.
    """
    allowed = allowed_tokens(search, settings, grammar)
    candidates = draw(
        next_scores(logits, search.seen, allowed, settings), search.scores, noise, settings
    )
    steps = search.steps + (~search.over).long()
    ended = (candidates.tokens == EOS) | (steps >= settings.max_tokens)
    sequences = _extended(search, candidates)
    running, scores = _running(candidates, ended, settings)
    finished_sequences, finished_scores, finished = _finished(
        search, candidates, ended, sequences, steps, settings
    )
    beams = candidates.beams.gather(1, running)
    tokens = candidates.tokens.gather(1, running)
    states = search.states.gather(1, beams)
    exhausted = (ended | ~candidates.drawn).all(dim=1, keepdim=True)
    settled = ~_can_improve(scores, steps, finished_scores, finished, settings)
    return Search(
        steps=steps,
        over=search.over | exhausted | settled,
        tokens=tokens,
        scores=torch.where(_usable(scores, settings) & (settings.beams == 1), 0.0, scores),
        states=grammar.following[states, tokens],
        joints=search.joints.gather(1, beams) + grammar.joints[states, tokens],
        seen=_rows(search.seen, beams).scatter(2, tokens.unsqueeze(2), True),
        sequences=_rows(sequences, running),
        ancestors=_rows(search.ancestors, beams).scatter(
            2, _place(search, beams), _row_numbers(beams).unsqueeze(2)
        ),
        finished_sequences=finished_sequences,
        finished_scores=finished_scores,
        finished=finished,
    )


def allowed_tokens(search: Search, settings: SlotSettings, grammar: GrammarTables) -> Tensor:
    """(S, B, V) bool. Under the strict rule a skeleton ends before its tokens run out."""
    allowed = grammar.allowed[search.states]
    left = settings.max_tokens - search.steps
    closing = settings.strict & ((search.joints >= settings.max_joints) | (left < ENDING))
    only_eos = torch.arange(VOCABULARY, device=allowed.device) == EOS
    closing = closing & allowed[..., EOS]
    return torch.where(closing.unsqueeze(2), only_eos, allowed)


def next_scores(logits: Tensor, seen: Tensor, allowed: Tensor, settings: SlotSettings) -> Tensor:
    """Scores of the next token, (S, B, V), -inf where it cannot be.

    In this order: log-probabilities, penalty for repetition, grammar, temperature, top-k, top-p.
    """
    one_beam = (settings.beams == 1).unsqueeze(2)
    scores = torch.where(one_beam, logits, logits.log_softmax(dim=-1))
    penalty = settings.repetition_penalty.unsqueeze(2)
    penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
    scores = torch.where(seen, penalised, scores).masked_fill(~allowed, -torch.inf)
    return torch.where(settings.sample.unsqueeze(2), _warped(scores, settings), scores)


def draw(scores: Tensor, beam_scores: Tensor, noise: Tensor, settings: SlotSettings) -> Candidates:
    """Choose continuations of all beams of a slot together.

    scores: (S, B, V). beam_scores: (S, B). Sampling draws without replacement as torch.multinomial
    does, with the same use of a generator: the largest p / q, q exponentially distributed.
    """
    slots, beams, vocabulary = scores.shape
    total = (scores + beam_scores.unsqueeze(2)).flatten(1)
    keys = torch.where(settings.sample, total.softmax(dim=-1) / noise, total)
    chosen = keys.topk(2 * beams).indices
    draws = torch.where(settings.beams == 1, 1, 2 * settings.beams)
    drawn = torch.arange(2 * beams, device=scores.device).expand(slots, -1) < draws
    return Candidates(
        scores=total.gather(1, chosen).masked_fill(~drawn, -torch.inf),
        beams=chosen // vocabulary,
        tokens=chosen % vocabulary,
        drawn=drawn,
    )


def _warped(scores: Tensor, settings: SlotSettings) -> Tensor:
    """Temperature, then the top_k best (with ties), then the smallest set with top_p of the rest.

    A beam search keeps two tokens of each beam at least.
    """
    scores = scores / settings.temperature.unsqueeze(2)
    worst = (VOCABULARY - settings.top_k).unsqueeze(2).expand(*scores.shape[:2], 1)
    threshold = scores.sort(dim=-1).values.gather(2, worst)
    scores = scores.masked_fill(scores < threshold, -torch.inf)
    ascending, order = scores.sort(dim=-1)
    tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= settings.tail.unsqueeze(2)
    kept = torch.where(settings.beams == 1, 1, 2).unsqueeze(2)
    tail &= torch.arange(VOCABULARY, device=scores.device) < VOCABULARY - kept
    return scores.masked_fill(torch.zeros_like(tail).scatter(2, order, tail), -torch.inf)


def _running(
    candidates: Candidates, ended: Tensor, settings: SlotSettings
) -> tuple[Tensor, Tensor]:
    """The candidates that run on, the best first, and their scores: (S, B) each."""
    beams = candidates.scores.shape[1] // 2
    scores, chosen = (candidates.scores + ended * _OUT).topk(beams)
    return chosen, scores.masked_fill(~_usable(scores, settings), -torch.inf)


def _finished(
    search: Search,
    candidates: Candidates,
    ended: Tensor,
    sequences: Tensor,
    steps: Tensor,
    settings: SlotSettings,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best finished sequences, old and new; their scores are means over their tokens.

    Of the candidates only the first half of those drawn may finish.
    """
    finishes = ended & _usable(ended, settings)
    scores = candidates.scores / steps.clamp(min=1) + ~finishes * _OUT
    beams = search.scores.shape[1]
    best, chosen = torch.cat([search.finished_scores, scores], dim=1).topk(beams)
    usable = _usable(best, settings)
    return (
        _rows(torch.cat([search.finished_sequences, sequences], dim=1), chosen),
        best.masked_fill(~usable, _OUT),
        torch.cat([search.finished, finishes], dim=1).gather(1, chosen) & usable,
    )


def _can_improve(
    scores: Tensor,
    steps: Tensor,
    finished_scores: Tensor,
    finished: Tensor,
    settings: SlotSettings,
) -> Tensor:
    """Whether the best running beam could beat the worst finished one: (S, 1) bool."""
    usable = _usable(finished_scores, settings)
    full = (finished | ~usable).all(dim=1, keepdim=True)
    worst = finished_scores.masked_fill(~usable, torch.inf).amin(dim=1, keepdim=True)
    best = scores[:, :1] / steps.clamp(min=1)
    return best > torch.where(full, worst, _OUT)


def _extended(search: Search, candidates: Candidates) -> Tensor:
    """The sequences of the candidates: (S, 2B, L)."""
    sequences = _rows(search.sequences, candidates.beams)
    place = _place(search, candidates.beams)
    return sequences.scatter(2, place, candidates.tokens.unsqueeze(2))


def _place(search: Search, rows: Tensor) -> Tensor:
    """Where the next token of each row is written: (S, R) -> (S, R, 1)."""
    last = search.sequences.shape[2] - 1
    return search.steps.clamp(max=last).unsqueeze(2).expand(*rows.shape, 1)


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Rows of each slot: (S, B, n), (S, R) -> (S, R, n)."""
    return values.gather(1, rows.unsqueeze(2).expand(-1, -1, values.shape[2]))


def _row_numbers(rows: Tensor) -> Tensor:
    return torch.arange(rows.shape[1], device=rows.device).expand_as(rows)


def _usable(rows: Tensor, settings: SlotSettings) -> Tensor:
    """The rows that are no more than a slot has beams: (S, R) bool."""
    return _row_numbers(rows) < settings.beams
