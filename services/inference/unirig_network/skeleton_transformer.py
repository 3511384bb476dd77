"""The transformer that writes a skeleton token by token (UniRig, section 4; an OPT decoder).

Zhang et al. 2022, "OPT", with the layer norm before each part. The residual stream and the layer
norms stay in float32; the large matrices may be bfloat16. Names of modules are those of the
official checkpoints.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

# OPT's table of positions begins with two rows that are never used.
_POSITION_OFFSET = 2
# Attention on a GPU copies a mask whose rows start elsewhere, in every layer.
_MASK_ALIGNMENT = 8
# A CPU's libraries multiply so few rows up to twice as fast from the right of the large matrix.
_FEW_ROWS = 32


@dataclass(frozen=True)
class TransformerConfig:
    """positions: the most positions that a sequence may have, condition included."""

    layers: int = 24
    hidden: int = 1024
    heads: int = 16
    inner: int = 4096
    positions: int = 3076
    vocabulary: int = 267

    @property
    def head(self) -> int:
        """Channels of a head."""
        return self.hidden // self.heads


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of S slots that each hold one request with B beams.

    pairs: (layers, S, 2 * heads, prefix + steps * B, head), the keys of all heads, then their
    values. The first `prefix` rows are the request's condition, shared by its beams. Row
    prefix + t * B + b is what beam row b computed at step t. Rows never move: which of them a beam
    descends from is the mask's business, so that a reordering of beams copies no keys.
    """

    pairs: Tensor
    prefix: int
    beams: int

    @staticmethod
    def empty(
        config: TransformerConfig,
        slots: int,
        beams: int,
        prefix: int,
        steps: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "KeyValueCache":
        """Zeros for `steps` steps; torch.OutOfMemoryError if they do not fit."""
        shape = (config.layers, slots, 2 * config.heads, prefix + steps * beams, config.head)
        return KeyValueCache(torch.zeros(shape, dtype=dtype, device=device), prefix, beams)

    def places(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Where the beams of each slot write at its step: (S,) int64 -> slot (S, 1), row (S, B)."""
        slots = torch.arange(len(steps), device=steps.device).unsqueeze(1)
        beams = torch.arange(self.beams, device=steps.device)
        return slots, self.prefix + steps.unsqueeze(1) * self.beams + beams

    def mask(self, ancestors: Tensor, dtype: torch.dtype) -> Tensor:
        """Which rows each beam sees, as 0 or -inf: (S, 1, B, prefix + n * B).

        ancestors: (S, B, n) int64, the beam row that each beam descends from at each of the first
        n steps; -1 at steps that have not come.
        """
        slots, beams, steps = ancestors.shape
        device = ancestors.device
        reach = self.prefix + steps * beams
        seen = ancestors.unsqueeze(-1) == torch.arange(self.beams, device=device)
        stride = -(-reach // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
        mask = torch.zeros(slots, 1, beams, stride, dtype=dtype, device=device)[..., :reach]
        mask[:, 0, :, self.prefix :].masked_fill_(~seen.flatten(2), -torch.inf)
        return mask


class SkeletonTransformer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.model = DecoderModel(config)
        self.lm_head = nn.Linear(config.hidden, config.vocabulary, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let the output share the embedding's matrix; both keys stay in the state dict."""
        self.lm_head.weight = self.model.decoder.embed_tokens.weight

    def cast_matrices(self, dtype: torch.dtype) -> None:
        """Cast the matrices of the layers; embeddings, layer norms and output stay as they are."""
        for module in self.model.decoder.layers.modules():
            if isinstance(module, Linear):
                module.to(dtype)

    @property
    def matrix_dtype(self) -> torch.dtype:
        return cast(DecoderLayer, self.model.decoder.layers[0]).fc1.weight.dtype

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (...) int64 -> (..., hidden) float32, without positions."""
        embedded: Tensor = self.model.decoder.embed_tokens(tokens)
        return embedded

    def forward(self, embedded: Tensor) -> Tensor:
        """Logits of whole sequences: (B, T, hidden) -> (B, T, vocabulary) float32."""
        hidden, _ = self.model.decoder.read(embedded)
        logits: Tensor = self.lm_head(hidden)
        return logits

    def prefill(self, embedded: Tensor, cache: KeyValueCache, slot: int) -> Tensor:
        """Read a request's prefix into its slot: (prefix, hidden) -> (vocabulary,) logits."""
        hidden, pairs = self.model.decoder.read(embedded.unsqueeze(0))
        for layer, pair in enumerate(pairs):
            cache.pairs[layer, slot, :, : cache.prefix] = pair[0].transpose(0, 1)
        logits: Tensor = self.lm_head(hidden[0, -1])
        return logits

    def step(
        self, tokens: Tensor, steps: Tensor, ancestors: Tensor, cache: KeyValueCache
    ) -> Tensor:
        """One token of every beam of every slot: (S, B) int64 -> logits (S, B, vocabulary).

        steps: (S,) int64, how many tokens each slot has before these.
        ancestors: (S, B, n) int64, see KeyValueCache.mask; these tokens' own rows are in it, so
        that n is more than the steps of any slot in use.
        """
        hidden = self.model.decoder.step(self.embed(tokens), steps, ancestors, cache)
        logits: Tensor = self.lm_head(hidden)
        return logits


class DecoderModel(nn.Module):
    """Only a level in the names of the weights."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.decoder = Decoder(config)


class Decoder(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.hidden)
        self.embed_positions = nn.Embedding(config.positions + _POSITION_OFFSET, config.hidden)
        self.final_layer_norm = nn.LayerNorm(config.hidden)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))

    def read(self, embedded: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Whole sequences: (B, T, hidden) -> the same, and each layer's keys and values.

        Keys and values are (B, T, 2 * heads, head).
        """
        positions = torch.arange(embedded.shape[1], device=embedded.device)
        x = embedded + self.embed_positions(positions + _POSITION_OFFSET)
        pairs = []
        for layer in self.layers:
            x, pair = cast(DecoderLayer, layer).read(x)
            pairs.append(pair)
        hidden: Tensor = self.final_layer_norm(x)
        return hidden, pairs

    def step(
        self, embedded: Tensor, steps: Tensor, ancestors: Tensor, cache: KeyValueCache
    ) -> Tensor:
        """(S, B, hidden) -> (S, B, hidden); see SkeletonTransformer.step."""
        positions = (cache.prefix + steps).unsqueeze(1)
        x = embedded + self.embed_positions(positions + _POSITION_OFFSET)
        places = cache.places(steps)
        mask = cache.mask(ancestors, cache.pairs.dtype)
        for layer, pairs in zip(self.layers, cache.pairs, strict=True):
            x = cast(DecoderLayer, layer).step(x, pairs, places, mask)
        hidden: Tensor = self.final_layer_norm(x)
        return hidden


class DecoderLayer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden)
        self.fc1 = Linear(config.hidden, config.inner)
        self.fc2 = Linear(config.inner, config.hidden)
        self.final_layer_norm = nn.LayerNorm(config.hidden)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each position attends to itself and those before it; see Decoder.read."""
        query, pair = self.self_attn.project(self._cast(self.self_attn_layer_norm(x)))
        key, value = pair.transpose(1, 2).chunk(2, dim=1)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._feed_forward(x + self.self_attn.join(attended)), pair

    def step(self, x: Tensor, pairs: Tensor, places: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Write this step's keys and values, then attend to the rows that the mask lets through.

        x: (S, B, hidden). pairs: (S, 2 * heads, all rows, head). places: see KeyValueCache.places.
        mask: (S, 1, B, R), of the first R rows.
        """
        query, pair = self.self_attn.project(self._cast(self.self_attn_layer_norm(x)))
        slots, rows = places
        pairs[slots, :, rows] = pair
        keys, values = pairs[:, :, : mask.shape[-1]].chunk(2, dim=1)
        attended = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return self._feed_forward(x + self.self_attn.join(attended))

    def _feed_forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.fc1(self._cast(self.final_layer_norm(x))))
        y: Tensor = x + self.fc2(inner)
        return y

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self.fc1.weight.dtype)


class SelfAttention(nn.Module):
    """One matrix makes queries, keys and values; a state dict has the checkpoints' three."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv_proj = Linear(config.hidden, 3 * config.hidden)
        self.out_proj = Linear(config.hidden, config.hidden)
        self.register_state_dict_post_hook(_split_projections)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_join_projections)  # type: ignore[no-untyped-call]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, hidden) -> query (B, heads, T, head); keys, values (B, T, 2 * heads, head)."""
        by_head = self.qkv_proj(x).view(*x.shape[:-1], 3 * self.heads, -1)
        return by_head[:, :, : self.heads].transpose(1, 2), by_head[:, :, self.heads :]

    def join(self, attended: Tensor) -> Tensor:
        """(B, heads, T, head) -> (B, T, hidden)."""
        joined: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return joined


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs), contiguous."""
        rows = x.flatten(0, -2)
        if x.is_cuda or len(rows) > _FEW_ROWS:
            return super().forward(x)
        product = torch.addmm(self.bias.unsqueeze(1), self.weight, rows.t())
        return product.t().contiguous().view(*x.shape[:-1], -1)


def _split_projections(
    module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object
) -> None:
    for kind in ("weight", "bias"):
        whole = state.pop(f"{prefix}qkv_proj.{kind}")
        for name, part in zip(_projections(prefix, kind), whole.chunk(3), strict=True):
            state[name] = part


def _join_projections(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for kind in ("weight", "bias"):
        names = _projections(prefix, kind)
        if all(name in state for name in names):
            state[f"{prefix}qkv_proj.{kind}"] = torch.cat([state.pop(name) for name in names])


def _projections(prefix: str, kind: str) -> list[str]:
    return [f"{prefix}{name}_proj.{kind}" for name in "qkv"]
