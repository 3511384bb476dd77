"""The skin network: the reference's outputs, the official checkpoint's names, and what a request
can rely on."""

import json
import logging
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from services.inference.unirig_network import skin_model
from services.inference.unirig_network.comparison import Comparison
from services.inference.unirig_network.parity_skin import network_comparisons, skin_config
from services.inference.unirig_network.point_transformer import PointTransformerConfig, patched
from services.inference.unirig_network.shape_encoder import ShapeEncoderConfig
from services.inference.unirig_network.skin_model import (
    SkinConfig,
    SkinModel,
    joint_masks,
    masked_weights,
    mixed_precision,
)

REFERENCE = Path(__file__).parents[3] / "shared" / "golden"

SMALL = SkinConfig(
    width=32,
    heads=4,
    bone_width=16,
    bone_blocks=2,
    mesh_blocks=2,
    read_out_width=16,
    points=PointTransformerConfig(
        channels=(8, 16, 16, 16, 32),
        blocks=(1, 1, 1, 1, 5),
        heads=(1, 2, 2, 2, 4),
        patches=5 * (64,),
    ),
    shape=ShapeEncoderConfig(width=32, heads=2, layers=1, tokens=16),
)


class Request(NamedTuple):
    points: Tensor
    normals: Tensor
    joints: Tensor
    parents: Tensor
    prior: Tensor


@pytest.fixture
def request_of_a_ball() -> Request:
    """300 points of a unit ball, some in one voxel, and a chain of four joints."""
    generator = torch.Generator().manual_seed(3)
    normals = torch.nn.functional.normalize(torch.randn(300, 3, generator=generator))
    points = normals + 0.001 * torch.randn(300, 3, generator=generator)
    points[100:110] = points[:10]
    joints = torch.tensor([[0.0, 0, -0.8], [0, 0, -0.2], [0, 0, 0.4], [0, 0, 0.9]])
    prior = (1 / torch.cdist(points, joints)).square()
    parents = torch.tensor([-1, 0, 1, 2])
    return Request(points, normals, joints, parents, prior / prior.sum(dim=1, keepdim=True))


@pytest.fixture(scope="module")
def small() -> SkinModel:
    torch.manual_seed(0)
    return SkinModel(SMALL)


@pytest.fixture(scope="module")
def comparisons() -> list[Comparison]:
    return list(network_comparisons(reference("skin_small.pt")))


def reference(name: str) -> Path:
    if not (REFERENCE / name).is_file():
        pytest.skip(f"the reference's outputs are not beside the checkout ({REFERENCE / name})")
    return REFERENCE / name


@pytest.mark.parametrize(
    "case",
    [
        "unique_seed42",
        "unique_seed43",
        "unique_seed42_fp16attn",
        "n40_tokennum8",
        "dups_first",
        "dups_last",
        "dups_native",
        "dups_mask",
        "dups_gpu",
    ],
)
def test_every_stage_matches_the_reference(case: str, comparisons: list[Comparison]) -> None:
    of_case = [one for one in comparisons if one.name.split()[1] == case]
    assert f"skin_small {case} weights" in [one.name for one in of_case]
    assert [one for one in of_case if not one.holds] == []


def test_all_kinds_of_stages_were_compared(comparisons: list[Comparison]) -> None:
    stages = {one.name.split()[2] for one in comparisons}
    assert len(stages) == 20


def test_the_full_network_has_the_names_and_shapes_of_the_official_checkpoint() -> None:
    listed = json.loads(reference("unirig_skin_state_dict.json").read_text())
    with torch.device("meta"):
        model = SkinModel(SkinConfig())
    shapes = {f"model.{name}": list(value.shape) for name, value in model.state_dict().items()}
    assert shapes == listed


def test_the_full_network_has_its_count_of_parameters() -> None:
    with torch.device("meta"):
        model = SkinModel(SkinConfig())
    assert len(model.state_dict()) == 1156
    assert sum(parameter.numel() for parameter in model.parameters()) == 364_496_273
    assert sum(buffer.numel() for buffer in model.buffers()) == 65


def test_an_unknown_setting_of_the_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="stride"):
        skin_config({"mesh_encoder.stride": [2, 2]})


def test_each_point_is_shared_among_the_joints(
    small: SkinModel, request_of_a_ball: Request
) -> None:
    weights = small(*request_of_a_ball)
    assert weights.shape == (300, 4)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(300))


def test_the_same_request_gives_the_same_weights(
    small: SkinModel, request_of_a_ball: Request
) -> None:
    first = small(*request_of_a_ball)
    torch.manual_seed(99)
    assert torch.equal(small(*request_of_a_ball), first)


def test_one_joint_alone_has_all_weights(small: SkinModel, request_of_a_ball: Request) -> None:
    points, normals, joints, parents, _ = request_of_a_ball
    weights = small(points, normals, joints[:1], parents[:1], torch.ones(300, 1))
    assert torch.equal(weights, torch.ones(300, 1))


def test_a_large_request_in_slices_has_the_weights_of_one_in_a_piece(
    small: SkinModel, request_of_a_ball: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = small(*request_of_a_ball)
    monkeypatch.setattr(skin_model, "_POINTS_PER_SLICE", 128)
    monkeypatch.setattr(skin_model, "_PAIRS_PER_SLICE", 90)
    torch.testing.assert_close(small(*request_of_a_ball), whole, rtol=0, atol=1e-6)


def test_the_precision_of_a_gpu_changes_little(
    small: SkinModel, request_of_a_ball: Request
) -> None:
    model = SkinModel(mixed_precision(SMALL))
    model.load_state_dict(small.state_dict())
    weights = model(*request_of_a_ball)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, small(*request_of_a_ball), rtol=0, atol=0.02)


def test_progress_never_goes_back_and_comes_in_many_steps(
    small: SkinModel, request_of_a_ball: Request
) -> None:
    shares: list[float] = []
    small(*request_of_a_ball, on_stage=lambda share, message: shares.append(share))
    assert shares == sorted(shares)
    assert len(set(shares)) >= 8
    assert shares[-1] == 1.0


def test_a_cancelled_request_ends_at_its_next_step(
    small: SkinModel, request_of_a_ball: Request
) -> None:
    steps = 0

    def cancel(share: float, message: str) -> None:
        nonlocal steps
        steps += 1
        if share > 0.3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        small(*request_of_a_ball, on_stage=cancel)
    assert steps < 12


def test_a_mask_holds_a_joint_and_its_children_but_no_further() -> None:
    masks = joint_masks(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.tensor([-1, 0, 1, 0]))
    torch.testing.assert_close(masks, torch.tensor([[0.7, 0.5, 0.3, 0.4]]))


def test_weights_are_the_softmax_times_the_cubed_mask() -> None:
    logits, masks = torch.tensor([[0.5, -0.2, 1.0]]), torch.tensor([[0.5, 0.5, 0.1]])
    product = logits.softmax(dim=1) * masks**3
    torch.testing.assert_close(masked_weights(logits, masks, masks), product / product.sum())


def test_small_masks_do_not_make_the_weights_vanish() -> None:
    masks = torch.tensor([[1e-20, 1e-20]])
    weights = masked_weights(torch.zeros(1, 2), masks, masks)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5]]))


def test_points_without_a_mask_or_without_numbers_still_have_weights(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logits = torch.tensor([[0.0, 0.0], [torch.nan, 0.0]])
    prior = torch.tensor([[0.0, 0.0], [0.25, 0.75]])
    with caplog.at_level(logging.WARNING):
        weights = masked_weights(logits, prior, prior)
    assert weights.tolist() == [[0.5, 0.5], [0.25, 0.75]]
    assert "of 2 points 1 have weights without the mask, 1 the prior's" in caplog.text


def test_the_last_patch_is_filled_from_the_one_before() -> None:
    curve = torch.arange(10)
    assert patched(curve, 4).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 6, 7]
    assert patched(curve, 5).tolist() == list(range(10))
    assert patched(curve, 16).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prior": torch.ones(300, 3)}, "prior must be"),
        ({"normals": torch.ones(299, 3)}, "normals must be"),
        ({"points": torch.full((300, 3), torch.nan)}, "points holds"),
        ({"parents": torch.tensor([-1, 0, 3, 2])}, "parent must come before"),
        ({"joints": torch.zeros(0, 3)}, "not empty"),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused(
    changed: dict[str, Tensor], message: str, small: SkinModel, request_of_a_ball: Request
) -> None:
    with pytest.raises(ValueError, match=message):
        small(*request_of_a_ball._replace(**changed))
