"""Continuous batching: requests join and leave one decoding loop between any two tokens.

Whatever is in use, every step is one pass of the same static shapes over all slots, so that a
request's tokens do not depend on its neighbours, and so that on a GPU a step is the replay of a
CUDA graph. Only how far attention reaches follows the longest sequence; the rows that others do
not have are masked. The loop knows no threads: one caller adds, steps and cancels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from services.inference.unirig_network.generation import (
    DecodingSettings,
    GrammarTables,
    Search,
    SlotSettings,
    advance,
)
from services.inference.unirig_network.skeleton_model import SkeletonModel
from services.inference.unirig_network.skeleton_transformer import KeyValueCache
from services.inference.unirig_network.tokenizer import BOS, VOCABULARY, class_token

# Attention reaches over this many generated tokens, or over a power of two times as many.
_SHORTEST_SPAN = 64


class NoFreeSlotError(RuntimeError):
    """All slots are in use."""


@dataclass(frozen=True)
class Request:
    """condition: (tokens, hidden), of SkeletonModel.condition, on the model's device.

    class_name: of CLASS_TOKENS, None for no class. seed: of this request's own random numbers.
    """

    condition: Tensor
    class_name: str | None
    settings: DecodingSettings
    seed: int


@dataclass(frozen=True)
class Progress:
    """tokens: generated so far. joints: of the best beam. limit: the most tokens."""

    ticket: int
    tokens: int
    joints: int
    limit: int


@dataclass(frozen=True)
class Finished:
    """sequence: bos, class and all generated tokens; eos is missing where they ran out."""

    ticket: int
    sequence: tuple[int, ...]


@dataclass(frozen=True)
class LoopCounters:
    """steps: passes of the network. rows: beams decoded in them, of all requests together.

    shared_steps: the steps that served more than one request.
    """

    steps: int = 0
    rows: int = 0
    shared_steps: int = 0


@dataclass
class _Occupant:
    ticket: int
    request: Request
    generator: torch.Generator
    tokens: int = 0


class DecodingLoop:
    """slots: the most requests at a time. beams: the most of a request. max_tokens: likewise.

    All memory that the loop keeps is taken at once: torch.OutOfMemoryError if it is not there.
    """

    def __init__(self, model: SkeletonModel, slots: int, beams: int, max_tokens: int) -> None:
        prefix = model.config.prefix
        if prefix + max_tokens > model.config.transformer.positions:
            raise ValueError(f"the model has no positions for {max_tokens} tokens")
        device = model.transformer.lm_head.weight.device
        self.counters = LoopCounters()
        self._model = model
        self._beams = beams
        self._max_tokens = max_tokens
        self._device = device
        self._cache = KeyValueCache.empty(
            model.config.transformer,
            slots=slots,
            beams=beams,
            prefix=prefix,
            steps=max_tokens,
            dtype=model.transformer.matrix_dtype,
            device=device,
        )
        self._search = Search.empty(slots, beams, max_tokens, device)
        self._settings = SlotSettings.empty(slots, device)
        self._grammar = GrammarTables.on(device)
        self._logits = torch.zeros(slots, beams, VOCABULARY, device=device)
        self._noise = torch.ones(slots, beams * VOCABULARY, device=device)
        self._occupants: list[_Occupant | None] = [None] * slots
        self._tickets = 0
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    @property
    def free_slots(self) -> int:
        return self._occupants.count(None)

    @property
    def active(self) -> int:
        """Requests in the loop."""
        return len(self._occupants) - self.free_slots

    @torch.no_grad()
    def add(self, request: Request) -> int:
        """Take a request into a free slot and read its prefix; its ticket names it from then on.

        Raises NoFreeSlotError, ValueError where its settings exceed the loop's, and
        torch.OutOfMemoryError, after which the slot is still free and the others are unharmed.
        """
        settings = request.settings
        if settings.beams > self._beams or settings.max_tokens > self._max_tokens:
            raise ValueError(
                f"the loop has room for {self._beams} beams and {self._max_tokens} tokens"
            )
        if not self.free_slots:
            raise NoFreeSlotError(f"all {len(self._occupants)} slots are in use")
        slot = self._occupants.index(None)
        generator = torch.Generator(self._device).manual_seed(request.seed)
        prefix = self._model.prefix(request.condition, class_token(request.class_name))
        self._logits[slot] = self._model.transformer.prefill(prefix, self._cache, slot)
        self._settings.write(slot, settings)
        self._search.start(slot, settings)
        self._tickets += 1
        occupant = _Occupant(self._tickets, request, generator)
        self._draw_noise(slot, occupant)
        self._occupants[slot] = occupant
        return occupant.ticket

    def cancel(self, ticket: int) -> bool:
        """Free a request's slot at once; False if it is not in the loop."""
        for slot, occupant in self._in_use():
            if occupant.ticket == ticket:
                self._release(slot)
                return True
        return False

    @torch.no_grad()
    def step(self) -> list[Progress | Finished]:
        """One token for every request in the loop, and what came of it, one event each.

        A step that raises, such as torch.OutOfMemoryError, leaves all as it was: it can be tried
        again, perhaps after a cancel.
        """
        in_use = list(self._in_use())
        if not in_use:
            return []
        self._run(self._span(max(occupant.tokens for _, occupant in in_use) + 1))
        self._count(in_use)
        over, joints = torch.stack([self._search.over[:, 0], self._search.joints[:, 0]]).tolist()
        events: list[Progress | Finished] = []
        for slot, occupant in in_use:
            occupant.tokens += 1
            if over[slot]:
                events.append(self._finish(slot, occupant))
                continue
            self._draw_noise(slot, occupant)
            limit = occupant.request.settings.max_tokens
            events.append(Progress(occupant.ticket, occupant.tokens, joints[slot], limit))
        return events

    @torch.no_grad()
    def warm_up(self) -> None:
        """Run everything once, and on a GPU record the steps; only while no request is in it."""
        if self.active:
            raise RuntimeError("the loop is in use")
        config = self._model.config
        condition = torch.zeros(
            config.encoder.tokens, config.transformer.hidden, device=self._device
        )
        prefix = self._model.prefix(condition, class_token(None))
        self._model.transformer.prefill(prefix, self._cache, slot=0)
        if self._device.type != "cuda":
            self._advance(self._span(1))
            return
        span = 0
        while span < self._max_tokens:
            span = self._span(span + 1)
            self._advance(span)
            self._record(span)

    def _run(self, span: int) -> None:
        graph = self._graphs.get(span)
        if graph is None:
            self._advance(span)
        else:
            graph.replay()

    def _record(self, span: int) -> None:
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=pool):
            self._advance(span)
        self._graphs[span] = graph

    def _advance(self, span: int) -> None:
        """A step on the device. Nothing is kept before all is computed."""
        search = advance(self._search, self._logits, self._noise, self._settings, self._grammar)
        before = self._search.steps[:, 0].clamp(max=self._max_tokens - 1)
        logits = self._model.transformer.step(
            search.tokens, before, search.ancestors[:, :, :span], self._cache
        )
        self._logits.copy_(logits)
        for field in fields(Search):
            getattr(self._search, field.name).copy_(getattr(search, field.name))

    def _span(self, tokens: int) -> int:
        """The reach of attention for so many generated tokens."""
        span = _SHORTEST_SPAN
        while span < tokens:
            span *= 2
        return min(span, self._max_tokens)

    def _draw_noise(self, slot: int, occupant: _Occupant) -> None:
        """The random numbers of a request's next step, as many as its own beams need."""
        if occupant.request.settings.sample:
            own = occupant.request.settings.beams * VOCABULARY
            self._noise[slot, :own].exponential_(generator=occupant.generator)

    def _finish(self, slot: int, occupant: _Occupant) -> Finished:
        tokens = self._search.best(slot)
        self._release(slot)
        return Finished(occupant.ticket, (BOS, class_token(occupant.request.class_name), *tokens))

    def _release(self, slot: int) -> None:
        self._occupants[slot] = None
        self._search.stop(slot)

    def _in_use(self) -> Iterator[tuple[int, _Occupant]]:
        for slot, occupant in enumerate(self._occupants):
            if occupant is not None:
                yield slot, occupant

    def _count(self, in_use: list[tuple[int, _Occupant]]) -> None:
        self.counters = LoopCounters(
            steps=self.counters.steps + 1,
            rows=self.counters.rows + sum(o.request.settings.beams for _, o in in_use),
            shared_steps=self.counters.shared_steps + (len(in_use) > 1),
        )
