"""What the models in Triton read from their environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class ServingSettings:
    """Settings of the models in a Triton server; in the environment UNIRIG_ and the field's name.

    model_folder: where skeleton.safetensors and skin.safetensors lie.
    slots: the most skeletons that are decoded at a time; memory is taken for all of them at once.
    beams: the most that a skeleton may ask for, and what it gets where it does not ask.
    max_tokens: likewise, of one skeleton; a joint takes three to seven.
    threads: of each model on a CPU; None leaves it to PyTorch.
    """

    model_folder: Path = Path("models")
    slots: int = 4
    beams: int = 15
    max_tokens: int = 2048
    threads: int | None = None


# A GPU reads the weights once per token however many beams and slots share them; full, these cost
# 12.5 GB of keys and values. A CPU pays for each row of the batch, and for these 2.4 GB.
ON_GPU = ServingSettings()
ON_CPU = ServingSettings(slots=2, beams=5, max_tokens=1024)


def serving_settings(environment: Mapping[str, str], device: torch.device) -> ServingSettings:
    """The settings in the environment, with the device's own defaults.

    Raises ValueError, which names the variable, where one is no whole number above 0.
    """
    defaults = ON_CPU if device.type == "cpu" else ON_GPU
    return ServingSettings(
        model_folder=Path(environment.get("UNIRIG_MODEL_FOLDER") or defaults.model_folder),
        slots=_count(environment, "UNIRIG_SLOTS") or defaults.slots,
        beams=_count(environment, "UNIRIG_BEAMS") or defaults.beams,
        max_tokens=_count(environment, "UNIRIG_MAX_TOKENS") or defaults.max_tokens,
        threads=_count(environment, "UNIRIG_THREADS") or defaults.threads,
    )


def _count(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name} must be a whole number above 0, not {text!r}")
    return int(text)
