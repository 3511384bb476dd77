"""The tokenizer and the skeleton network against outputs of the reference implementation.

Files are tokenizer*.pt (grammar, sequences and the skeletons they are), ar_*.pt (the network
at any size, with its weights, inputs, outputs and generated sequences) and data_ar_transform*.pt
(skeletons and their tokens). Tensors, lists and dicts only.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.inference.unirig_network.comparison import Comparison
from services.inference.unirig_network.decoding_loop import DecodingLoop, Finished, Request
from services.inference.unirig_network.generation import DecodingSettings
from services.inference.unirig_network.grammar import GRAMMAR, state_after
from services.inference.unirig_network.shape_encoder import ShapeEncoderConfig, candidate_indices
from services.inference.unirig_network.skeleton_model import (
    SkeletonModel,
    SkeletonModelConfig,
    load_skeleton_model,
)
from services.inference.unirig_network.skeleton_transformer import TransformerConfig
from services.inference.unirig_network.tokenizer import (
    BINS,
    EOS,
    MalformedSequenceError,
    TokenSkeleton,
    decode_skeleton,
    encode_skeleton,
    order_bones,
)

_BOUND = 1e-4
_CLASS = "articulationxl"
_PREFIX = "model."
_TIED = ("transformer.lm_head.weight", "transformer.model.decoder.embed_tokens.weight")

# Where the reference's settings are here.
_FIELDS = {
    "llm.num_hidden_layers": ("transformer", "layers"),
    "llm.hidden_size": ("transformer", "hidden"),
    "llm.num_attention_heads": ("transformer", "heads"),
    "llm.ffn_dim": ("transformer", "inner"),
    "llm.max_position_embeddings": ("transformer", "positions"),
    "mesh_encoder.width": ("encoder", "width"),
    "mesh_encoder.heads": ("encoder", "heads"),
    "mesh_encoder.num_encoder_layers": ("encoder", "layers"),
    "mesh_encoder.token_num": ("encoder", "tokens"),
}
_WITHOUT_EFFECT = (
    "llm.n_positions",
    "llm.word_embed_proj_dim",
    "mesh_encoder.num_latents",
    "mesh_encoder.embed_dim",
)


def tokenizer_comparisons(path: Path) -> Iterator[Comparison]:
    """Grammar, decoding and the order of bones: how many cases differ, of which none may."""
    golden = torch.load(path, weights_only=True)
    wrong = sum(_allowed(prefix) != _expected(allowed) for prefix, allowed in golden["grammar"])
    yield Comparison(f"{path.name} grammar: wrong sets", wrong, 0)
    for name, case in golden["detok"].items():
        wrong = _decoding_differences(case["ids"], case)
        yield Comparison(f"{path.name} decode {name}: differences", wrong, 0)
    case = golden["vroid_arrange"]
    order = order_bones(case["names"], case["parents"], "vroid").order
    wrong = _differing([case["names"][bone] for bone in order], case["new_names"])
    yield Comparison(f"{path.name} order of bones: differences", wrong, 0)


def sequence_comparisons(path: Path) -> Iterator[Comparison]:
    """Skeletons to tokens and back: how many things differ, of which none may."""
    for name, case in torch.load(path, weights_only=True).items():
        if "tokens" not in case:
            continue
        tokens = case["tokens"].tolist()
        own = encode_skeleton(case["joints"].numpy(), case["parents"], _CLASS, case["names"])
        yield Comparison(f"{path.name} encode {name}: tokens", _differing(own, tokens), 0)
        wrong = _decoding_differences(tokens, {"ok": True, **case["detok"]})
        yield Comparison(f"{path.name} decode {name}: differences", wrong, 0)


@torch.no_grad()
def network_comparisons(path: Path) -> Iterator[Comparison]:
    """Stages of the network, relative to the largest value; sequences, token by token."""
    golden = torch.load(path, weights_only=True)
    config = skeleton_config(golden["config_overrides"])
    weights = {key.removeprefix(_PREFIX): value for key, value in golden["state_dict"].items()}
    model = load_skeleton_model(config, weights)
    points, normals, out = golden["vertices"][None], golden["normals"][None], golden["out"]

    chosen = candidate_indices(points.shape[1], config.encoder.tokens)
    candidates = torch.cat([points, normals], dim=-1)[:, chosen]
    condition = model.condition(points, normals)
    yield _relative(f"{path.name} candidates", candidates, out["pre_pc"], bound=0)
    yield _relative(f"{path.name} latents", model.mesh_encoder(points, normals), out["latents"])
    yield _relative(f"{path.name} condition", condition, out["cond"])
    yield _relative(f"{path.name} logits", model(condition, out["prefix"]), out["logits"])

    kwargs = golden["generate_kwargs"]
    yield from _generated(path.name, model, condition[0], golden.get("generate", {}), kwargs)
    for name, variant in golden.get("eos_variants", {}).items():
        changed = load_skeleton_model(config, _with_eos_row(weights, variant["eos_row"]))
        title = f"{path.name} eos {name}"
        yield from _generated(title, changed, condition[0], variant["generate"], kwargs)


def skeleton_config(overrides: Mapping[str, Any]) -> SkeletonModelConfig:
    """The full size with the reference's names for what is otherwise; ValueError if unknown."""
    values: dict[str, dict[str, int]] = {"transformer": {}, "encoder": {}}
    for key, value in overrides.items():
        if key in _FIELDS:
            part, field = _FIELDS[key]
            values[part][field] = value
        elif key not in _WITHOUT_EFFECT:
            raise ValueError(f"the skeleton network has no setting {key}")
    return SkeletonModelConfig(
        encoder=replace(ShapeEncoderConfig(), **values["encoder"]),
        transformer=replace(TransformerConfig(), **values["transformer"]),
    )


def generate(
    model: SkeletonModel, condition: Tensor, settings: DecodingSettings, seed: int
) -> list[int]:
    """The tokens that follow bos and class, of one request alone: (tokens, hidden) -> tokens."""
    loop = DecodingLoop(model, slots=1, beams=settings.beams, max_tokens=settings.max_tokens)
    loop.add(Request(condition, _CLASS, settings, seed))
    while True:
        for event in loop.step():
            if isinstance(event, Finished):
                return list(event.sequence[2:])


def decoding_of(name: str, kwargs: Mapping[str, Any]) -> tuple[DecodingSettings, int]:
    """Settings and seed of a generated sequence, from its name and what all of them share.

    Names are like beam15_nosample, greedy_rep3, greedy_norep and sample_seed7.
    """
    beams = re.match(r"beam(\d+)", name)
    penalty = re.search(r"_rep(\d+)", name)
    seed = re.search(r"seed(\d+)", name)
    settings = DecodingSettings(
        beams=int(beams[1]) if beams else kwargs.get("num_beams", DecodingSettings.beams),
        sample=name.startswith("sample"),
        temperature=kwargs.get("temperature", DecodingSettings.temperature),
        top_k=kwargs.get("top_k", DecodingSettings.top_k),
        top_p=kwargs.get("top_p", DecodingSettings.top_p),
        repetition_penalty=kwargs.get("repetition_penalty", DecodingSettings.repetition_penalty),
        max_tokens=kwargs.get("max_new_tokens", DecodingSettings.max_tokens),
    )
    if name.startswith("greedy"):
        settings = replace(settings, beams=1)
    if penalty:
        settings = replace(settings, repetition_penalty=float(penalty[1]))
    if "_norep" in name:
        settings = replace(settings, repetition_penalty=1.0)
    return settings, int(seed[1]) if seed else 0


def _generated(
    title: str,
    model: SkeletonModel,
    condition: Tensor,
    expected: Mapping[str, Tensor],
    kwargs: Mapping[str, Any],
) -> Iterator[Comparison]:
    for name, tokens in expected.items():
        own = generate(model, condition, *decoding_of(name, kwargs))
        yield Comparison(f"{title} {name}: tokens", _differing(own, tokens.tolist()), 0)


def _with_eos_row(weights: Mapping[str, Tensor], row: Tensor) -> dict[str, Tensor]:
    changed = dict(weights)
    for key in _TIED:
        changed[key] = weights[key].clone()
        changed[key][EOS] = row
    return changed


def _relative(name: str, own: Tensor, expected: Tensor, bound: float = _BOUND) -> Comparison:
    error = (own - expected).abs().max() / expected.abs().max()
    return Comparison(f"{name}: relative", float(error), bound)


def _allowed(prefix: Sequence[int]) -> set[int]:
    return set(np.flatnonzero(GRAMMAR.allowed[state_after(prefix)]).tolist())


def _expected(allowed: Mapping[str, Any]) -> set[int]:
    return set(allowed["special"]) | set(range(BINS) if allowed["joint"] else ())


def _decoding_differences(tokens: Sequence[int], case: Mapping[str, Any]) -> int:
    """How many of joints, parents, tails, names, class and parts differ from the reference's.

    A sequence that only one of both can decode counts as one.
    """
    try:
        skeleton = decode_skeleton(tokens)
    except MalformedSequenceError:
        return int(case["ok"])
    if not case["ok"]:
        return 1
    return sum(not same for same in _agreements(skeleton, case))


def _agreements(skeleton: TokenSkeleton, case: Mapping[str, Any]) -> Iterator[bool]:
    joints, parents = skeleton.joints, skeleton.parents
    heads = joints[np.where(parents < 0, 0, parents)]
    if "bones" in case:
        yield np.array_equal(np.concatenate([heads, joints], axis=1), case["bones"].numpy())
    else:
        yield np.array_equal(joints, case["joints"].numpy())
        yield np.array_equal(heads, case["p_joints"].numpy())
    yield np.array_equal(skeleton.tails, case["tails"].numpy())
    yield parents.tolist() == case["parents"]
    yield list(skeleton.names) == case["names"]
    yield skeleton.class_name == case["cls"]
    yield list(skeleton.parts) == case["parts"]


def _differing(own: Sequence[object], expected: Sequence[object]) -> int:
    """Places at which two sequences differ, the longer one's rest included."""
    same = sum(a == b for a, b in zip(own, expected, strict=False))
    return max(len(own), len(expected)) - same
