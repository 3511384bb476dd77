"""The two models and where their official weights lie."""

from typing import Literal

Kind = Literal["skeleton", "skin"]
KINDS: tuple[Kind, ...] = ("skeleton", "skin")

OFFICIAL_REPOSITORY = "VAST-AI/UniRig"
# In that repository of the Hugging Face hub.
OFFICIAL_FILES: dict[Kind, str] = {
    "skeleton": "skeleton/articulation-xl_quantization_256/model.ckpt",
    "skin": "skin/articulation-xl/model.ckpt",
}
