"""The skeleton network: the reference's outputs, the official checkpoint's names, its cache."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.inference.unirig_network.parity_skeleton import (
    decoding_of,
    network_comparisons,
    skeleton_config,
)
from services.inference.unirig_network.shape_encoder import (
    ShapeEncoderConfig,
    candidate_indices,
    farthest_points,
)
from services.inference.unirig_network.skeleton_model import (
    SkeletonModel,
    SkeletonModelConfig,
    load_skeleton_model,
)
from services.inference.unirig_network.skeleton_transformer import (
    KeyValueCache,
    TransformerConfig,
)
from services.inference.unirig_network.tokenizer import CLASS_TOKENS

REFERENCE = Path(__file__).parents[3] / "shared" / "golden"

SMALL = SkeletonModelConfig(
    encoder=ShapeEncoderConfig(width=32, heads=4, layers=2, tokens=16),
    transformer=TransformerConfig(layers=2, hidden=64, heads=4, inner=96, positions=200),
)


def reference(name: str) -> Path:
    path = REFERENCE / name
    if not path.is_file():
        pytest.skip(f"the reference's outputs are not beside the checkout ({path})")
    return path


@pytest.fixture(scope="module")
def small() -> SkeletonModel:
    torch.manual_seed(0)
    return load_skeleton_model(SMALL, SkeletonModel(SMALL).state_dict())


@pytest.fixture
def ball() -> tuple[torch.Tensor, torch.Tensor]:
    """Points and normals of two balls: (2, 300, 3) each."""
    generator = torch.Generator().manual_seed(1)
    normals = torch.nn.functional.normalize(torch.randn(2, 300, 3, generator=generator), dim=-1)
    return normals * torch.tensor([0.5, 0.9]).reshape(2, 1, 1), normals


def test_stages_and_generated_sequences_are_those_of_the_reference() -> None:
    comparisons = list(network_comparisons(reference("ar_small.pt")))
    assert len(comparisons) > 20
    assert [c for c in comparisons if not c.holds] == []


def test_the_full_size_has_the_names_and_shapes_of_the_official_checkpoint() -> None:
    listed = json.loads(reference("unirig_ar_state_dict.json").read_text())
    with torch.device("meta"):
        state = SkeletonModel(SkeletonModelConfig()).state_dict()
    assert {f"model.{key}": list(value.shape) for key, value in state.items()} == listed


def test_the_full_size_has_as_many_parameters_as_published() -> None:
    with torch.device("meta"):
        model = SkeletonModel(SkeletonModelConfig())
    assert sum(weight.numel() for weight in model.parameters()) == 359_856_640
    assert len(model.state_dict()) == 585


def test_the_subset_from_which_queries_are_chosen_never_changes() -> None:
    assert candidate_indices(65536, 1024)[:4].tolist() == [29394, 10839, 13279, 38664]
    assert candidate_indices(32768, 1024)[:4].tolist() == [13717, 5058, 6197, 18044]


def test_farthest_points_are_chosen_in_order_the_first_of_equals() -> None:
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [-4, 0, 0], [4, 0, 0], [2.5, 0, 0]])
    assert farthest_points(line[None], 4).tolist() == [[0, 2, 3, 4]]


@torch.no_grad()
def test_shapes_are_encoded_in_a_batch_as_they_are_alone(
    small: SkeletonModel, ball: tuple[torch.Tensor, torch.Tensor]
) -> None:
    points, normals = ball
    together = small.condition(points, normals)
    assert together.shape == (2, 16, 64)
    for row in range(2):
        alone = small.condition(points[row, None], normals[row, None])
        torch.testing.assert_close(together[row, None], alone)


@torch.no_grad()
def test_fewer_points_than_queries_are_enough(small: SkeletonModel) -> None:
    points = torch.rand(1, 5, 3)
    assert small.condition(points, points).isfinite().all()


@torch.no_grad()
def test_beams_read_from_the_cache_what_a_whole_pass_would_give_them(small: SkeletonModel) -> None:
    """Two slots, the second four steps behind; beams descend from one another at random."""
    generator = torch.Generator().manual_seed(2)
    slots, beams, steps = 2, 3, 12
    cache = KeyValueCache.empty(
        SMALL.transformer, slots, beams, SMALL.prefix, steps, torch.float32, torch.device("cpu")
    )
    prefixes = []
    for slot in range(slots):
        condition = torch.randn(SMALL.encoder.tokens, 64, generator=generator)
        prefixes.append(small.prefix(condition, CLASS_TOKENS["vroid"]))
        logits = small.transformer.prefill(prefixes[slot], cache, slot)
        torch.testing.assert_close(logits, small.transformer(prefixes[slot][None])[0, -1])
    histories = [[list[int]()] * beams for _ in range(slots)]
    ancestors = torch.full((slots, beams, steps), -1)
    for step in range(steps - 1):
        at = torch.tensor([step, max(0, step - 4)])
        if step <= 4:
            histories[1], ancestors[1] = [[]] * beams, -1
        parents = torch.randint(beams, (slots, beams), generator=generator)
        tokens = torch.randint(256, (slots, beams), generator=generator)
        for slot in range(slots):
            ancestors[slot] = ancestors[slot, parents[slot]]
            ancestors[slot, :, at[slot]] = torch.arange(beams)
            histories[slot] = [
                [*histories[slot][int(parents[slot, beam])], int(tokens[slot, beam])]
                for beam in range(beams)
            ]
        logits = small.transformer.step(tokens, at, ancestors, cache)
        for slot, prefix in enumerate(prefixes):
            embedded = small.transformer.embed(torch.tensor(histories[slot]))
            whole = torch.cat([prefix.expand(beams, -1, -1), embedded], dim=1)
            expected = small.transformer(whole)[:, -1]
            torch.testing.assert_close(logits[slot], expected, atol=1e-5, rtol=1e-4)


def test_a_model_gives_back_the_weights_that_it_was_given(small: SkeletonModel) -> None:
    generator = torch.Generator().manual_seed(3)
    given = {
        name: torch.randn(value.shape, generator=generator)
        for name, value in small.state_dict().items()
    }
    given["transformer.lm_head.weight"] = given["transformer.model.decoder.embed_tokens.weight"]
    returned = load_skeleton_model(SMALL, given).state_dict()
    assert returned.keys() == given.keys()
    assert all(torch.equal(returned[name], value) for name, value in given.items())


def test_weights_with_other_names_or_shapes_are_refused(small: SkeletonModel) -> None:
    weights = small.state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key.*output_proj\.bias"):
        load_skeleton_model(SMALL, {k: v for k, v in weights.items() if k != "output_proj.bias"})
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_skeleton_model(SMALL, {**weights, "output_proj.bias": torch.zeros(3)})


@torch.no_grad()
def test_bfloat16_keeps_the_residual_stream_and_the_logits_in_float32(
    small: SkeletonModel, ball: tuple[torch.Tensor, torch.Tensor]
) -> None:
    half = load_skeleton_model(SMALL, small.state_dict(), dtype=torch.bfloat16)
    assert half.transformer.matrix_dtype == half.output_proj.weight.dtype == torch.bfloat16
    assert half.transformer.lm_head.weight is half.transformer.model.decoder.embed_tokens.weight
    tokens = torch.tensor([[257, 266, 260, 1, 2, 3]])
    logits = half(half.condition(*ball)[:1], tokens)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(
        logits, small(small.condition(*ball)[:1], tokens), atol=0.1, rtol=0.1
    )


def test_the_reference_s_settings_have_their_places_here() -> None:
    config = skeleton_config({"llm.ffn_dim": 96, "mesh_encoder.token_num": 16})
    assert config == SkeletonModelConfig(
        encoder=replace(ShapeEncoderConfig(), tokens=16),
        transformer=replace(TransformerConfig(), inner=96),
    )
    with pytest.raises(ValueError, match="no setting"):
        skeleton_config({"llm.dropout_of_another_kind": 1})


def test_the_name_of_a_sequence_tells_how_it_was_generated() -> None:
    kwargs = {"max_new_tokens": 60, "num_beams": 7, "repetition_penalty": 3.0}
    beam, _ = decoding_of("beam15_nosample", kwargs)
    assert (beam.beams, beam.sample, beam.repetition_penalty) == (15, False, 3.0)
    greedy, _ = decoding_of("greedy_norep", kwargs)
    assert (greedy.beams, greedy.sample, greedy.repetition_penalty) == (1, False, 1.0)
    sampled, seed = decoding_of("sample_upstream_kwargs_seed12345", kwargs)
    assert (sampled.beams, sampled.sample, seed) == (7, True, 12345)
    assert (sampled.top_k, sampled.top_p, sampled.temperature) == (5, 0.95, 1.5)
