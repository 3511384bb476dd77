"""What the networks' decoding is compared with: Hugging Face's OPT of the same shape and weights.

Transformers is no dependency of the project; the version is the one that UniRig's authors name.
"""

import importlib.util
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.inference.unirig_network.skeleton_transformer import SkeletonTransformer
from services.inference.unirig_network.tokenizer import BOS, EOS, PAD

INSTALL = "pip install transformers==4.51.3"


@dataclass(frozen=True)
class Generation:
    """prefill: seconds until the first token of all requests. rate: tokens/s after it."""

    prefill: float
    rate: float


@dataclass
class Clock:
    """The moments at which generate looks for the next token."""

    moments: list[float] = field(default_factory=list)

    def __call__(self, tokens: Tensor, scores: Tensor) -> Tensor:
        if scores.is_cuda:
            torch.cuda.synchronize()
        self.moments.append(time.perf_counter())
        return scores


def is_installed() -> bool:
    return importlib.util.find_spec("transformers") is not None


def generate(transformer: SkeletonTransformer, prefixes: Tensor, tokens: int) -> Generation:
    """Greedy tokens of all requests in one batch, in the precision of the transformer's matrices.

    prefixes: (requests, positions, hidden) float32.
    """
    from transformers import OPTConfig, OPTForCausalLM

    shape, dtype = transformer.config, transformer.matrix_dtype
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            word_embed_proj_dim=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            ffn_dim=shape.inner,
            max_position_embeddings=shape.positions,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )
    model.load_state_dict(transformer.state_dict())
    model = model.to(prefixes.device, dtype).eval()
    embedded = prefixes.to(dtype)
    _clocked(model, embedded[:1], 2)
    start, moments = _clocked(model, embedded, tokens)
    steps = len(prefixes) * (tokens - 1)
    return Generation(moments[0] - start, steps / (moments[-1] - moments[0]))


@torch.no_grad()
def _clocked(model: torch.nn.Module, embedded: Tensor, tokens: int) -> tuple[float, list[float]]:
    clock = Clock()
    start = time.perf_counter()
    model.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long, device=embedded.device),
        max_new_tokens=tokens,
        eos_token_id=None,
        do_sample=False,
        logits_processor=[clock],
    )
    assert len(clock.moments) == tokens
    return start, clock.moments
