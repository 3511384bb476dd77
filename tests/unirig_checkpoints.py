"""Small checkpoints as the official ones are: what Lightning writes with torch.save."""

import collections
from collections.abc import Mapping
from pathlib import Path

import torch

EMBEDDING = "transformer.model.decoder.embed_tokens.weight"
HEAD = "transformer.lm_head.weight"


def small_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights of a made-up model, tied as the skeleton model's are."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(7, 4, generator=generator)
    return {
        EMBEDDING: embedding,
        HEAD: embedding,
        "encoder.weight": torch.randn(4, 4, generator=generator),
        "norm.num_batches_tracked": torch.tensor(12),
        "norm.running_mean": torch.randn(4, generator=generator),
    }


def on_meta(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names, shapes and types of the weights alone."""
    return {name: tensor.to("meta") for name, tensor in weights.items()}


def lightning_checkpoint(
    weights: Mapping[str, torch.Tensor], hyper_parameters: object = None
) -> dict[str, object]:
    """What Lightning would give to torch.save: weights, two AdamW moments, and its own state."""
    moments = {
        index: {"step": torch.tensor(3.0), "exp_avg": t + 1, "exp_avg_sq": t + 2}
        for index, t in enumerate(weights.values())
    }
    return {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.5.1",
        "state_dict": collections.OrderedDict(
            (f"model.{name}", tensor) for name, tensor in weights.items()
        ),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 1e-4, "params": [0, 1]}]}],
        "lr_schedulers": [],
        "hparams_name": "config",
        "hyper_parameters": hyper_parameters,
    }


def write_lightning_checkpoint(
    path: Path, weights: Mapping[str, torch.Tensor], hyper_parameters: object = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(lightning_checkpoint(weights, hyper_parameters), path)
    return path
