"""The skin network: how much each surface point follows each joint (UniRig, section 5).

A point branch reads the surface, a global branch the whole shape, a bone branch the joints; surface
points then attend to bones and shape, and a small network weighs each pair of a point and a joint.
A prior from the distances through the solid is both an input and a mask. Names of modules are those
of the official checkpoints.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.inference.unirig_network.bone_attention import BoneAttentionBlock, BoneEncoder
from services.inference.unirig_network.point_transformer import (
    PointTransformer,
    PointTransformerConfig,
    surface_curves,
)
from services.inference.unirig_network.shape_encoder import ShapeEncoder, ShapeEncoderConfig

# Called with the share done so far, 0..1, and what is being done.
OnStage = Callable[[float, str], None]

_log = logging.getLogger(__name__)

# Points attend to bones and shape in slices of so many, and are read out in slices of so many
# pairs of point and joint, so that memory does not grow with either.
_POINTS_PER_SLICE = 8192
_PAIRS_PER_SLICE = 65536

# The mask's power when it is multiplied with the weights.
_MASK_POWER = 3.0


@dataclass(frozen=True)
class SkinConfig:
    """width: channels of points, bones and shape. heads: of attention, of read-out too.
    bone_width: the bone encoder's first hidden layer. read_out_width: of the last network.

    dtype: of dense layers and attention outside the point branch, by autocast; normalisation,
    softmax, the pairing of points with bones and the mask stay float32.
    """

    width: int = 768
    heads: int = 16
    bone_width: int = 1024
    bone_blocks: int = 8
    mesh_blocks: int = 16
    read_out_width: int = 512
    points: PointTransformerConfig = field(default_factory=PointTransformerConfig)
    shape: ShapeEncoderConfig = field(default_factory=ShapeEncoderConfig)
    dtype: torch.dtype = torch.float32


def mixed_precision(config: SkinConfig) -> SkinConfig:
    """The same network with the reference's precision on a GPU: bfloat16, and in the point branch
    float16 for convolutions and attention, float32 for all else."""
    points = replace(config.points, convolution_dtype=torch.float16, attention_dtype=torch.float16)
    return replace(config, points=points, dtype=torch.bfloat16)


class SkinModel(nn.Module):
    def __init__(self, config: SkinConfig) -> None:
        super().__init__()
        self.config = config
        width, heads = config.width, config.heads
        self.mesh_encoder = PointTransformer(config.points)
        self.global_encoder = ShapeEncoder(config.shape)
        self.feat_map = _projection(config.points.channels[-1], width)
        self.out_proj = _projection(config.shape.width, width)
        self.bone_encoder = BoneEncoder(width, config.bone_width, heads, config.bone_blocks)
        self.mesh_bone_attn = nn.ModuleList(
            BoneAttentionBlock(width, heads) for _ in range(config.mesh_blocks)
        )
        self.qmesh = nn.Linear(width, heads * width)
        self.kmesh = nn.Linear(width, heads * width)
        self.voxel_skin_embed = nn.Linear(1, heads)
        self.voxel_skin_norm = nn.LayerNorm(heads)
        self.attn_skin_norm = nn.LayerNorm(heads)
        self.downscale = _projection(2 * heads, heads)
        self.skinweight_pred = PairNetwork(heads, config.read_out_width)
        self.eval()

    @torch.inference_mode()
    def forward(
        self,
        points: Tensor,
        normals: Tensor,
        joints: Tensor,
        parents: Tensor,
        prior: Tensor,
        *,
        curves: Tensor | None = None,
        on_stage: OnStage = lambda share, message: None,
    ) -> Tensor:
        """Weights (N, J) float32, each row sums to 1.

        points, normals: (N, 3) float32, the model in [-1, 1], +Z up, facing -Y.
        joints: (J, 3) float32 in the same frame. parents: (J,) integers, -1 for the root.
        prior: (N, J) float32 >= 0, each row sums to 1.

        A point from which the prior excludes all joints has the network's weights unmasked; a
        point for which the network gives no number has the prior's. How many there were is logged.

        curves: (4, N) int64, the order of the points along the space-filling curves in place of
        the fixed one: see surface_curves.

        on_stage is called after each block, some fifty times or more; what it raises ends the pass.
        On a GPU it runs ahead of the kernels unless it waits for them itself.

        Raises ValueError where the inputs do not fit together or hold no numbers.
        """
        _check(points, normals, joints, parents, prior)
        on_stage(0.0, "Reading the shape")
        with self._autocast(points.device):
            latents = self.out_proj(self.global_encoder(points[None], normals[None])[0])
            on_stage(0.08, "Reading the joints")
            bones = self.bone_encoder(joints - points.amin(dim=0), latents)
            context = torch.cat([bones, latents])
        on_stage(0.1, "Reading the surface")
        surface = self.mesh_encoder(
            points,
            normals,
            surface_curves(points) if curves is None else curves,
            lambda share: on_stage(0.1 + 0.3 * share, "Reading the surface"),
        )
        logits = self._logits(
            surface,
            context,
            bones.float(),
            prior,
            lambda share: on_stage(0.4 + 0.6 * share, "Weighing the joints"),
        )
        return masked_weights(logits, joint_masks(prior, parents), prior)

    def _logits(
        self,
        surface: Tensor,
        context: Tensor,
        bones: Tensor,
        prior: Tensor,
        on_share: Callable[[float], None],
    ) -> Tensor:
        """How well each joint fits each point: (N, J), before the softmax over joints."""
        matcher = self._matcher(bones)
        logits = surface.new_empty(prior.shape)
        steps = -(-len(surface) // _POINTS_PER_SLICE) * (len(self.mesh_bone_attn) + 1)
        done = 0
        for start in range(0, len(surface), _POINTS_PER_SLICE):
            rows = slice(start, start + _POINTS_PER_SLICE)
            with self._autocast(surface.device):
                x = self.feat_map(surface[rows])
                for block in self.mesh_bone_attn:
                    x = block(x, context)
                    done += 1
                    on_share(done / steps)
                logits[rows] = self._read_out(x, matcher, prior[rows])
            done += 1
            on_share(done / steps)
        return logits

    def _matcher(self, bones: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (J * heads, width) and bias (J * heads,) of the layer that matches points with
        the given bones (J, width).

        A head's match is (Wq x + bq) . k / sqrt(width). With k known, Wq and k make one matrix of a
        few rows a joint, so that the points need no queries of heads * width channels.
        """
        heads, width = self.config.heads, self.config.width
        keys = self.kmesh(bones).view(-1, heads, width) / width**0.5
        weight = torch.einsum("jho,hoi->jhi", keys, self.qmesh.weight.view(heads, width, width))
        bias = torch.einsum("jho,ho->jh", keys, self.qmesh.bias.view(heads, width))
        return weight.flatten(0, 1), bias.flatten()

    def _read_out(self, x: Tensor, matcher: tuple[Tensor, Tensor], prior: Tensor) -> Tensor:
        """x: (P, width); prior: (P, J) -> logits (P, J)."""
        size = max(1, _PAIRS_PER_SLICE // prior.shape[1])
        parts = zip(torch.split(x, size), torch.split(prior, size), strict=True)
        return torch.cat([self._pair_logits(x, matcher, prior) for x, prior in parts])

    def _pair_logits(self, x: Tensor, matcher: tuple[Tensor, Tensor], prior: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            matches = functional.linear(x.float(), *matcher)
        shares = matches.view(*prior.shape, self.config.heads).softmax(dim=1)
        distances = self.voxel_skin_norm(self.voxel_skin_embed(prior.unsqueeze(-1)))
        pairs = self.downscale(torch.cat([self.attn_skin_norm(shares), distances], dim=-1))
        logits: Tensor = self.skinweight_pred(pairs)
        return logits.squeeze(-1).float()

    def _autocast(self, device: torch.device) -> torch.autocast:
        dtype = self.config.dtype
        return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


class PairNetwork(nn.Module):
    """One number for each pair of a point and a joint."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *_projection(inputs, width),
            *_projection(width, width),
            *_projection(width, width),
            *_projection(width, width),
            nn.Linear(width, 1),
        )

    def forward(self, pairs: Tensor) -> Tensor:
        """(..., inputs) -> (..., 1)."""
        y: Tensor = self.net(pairs)
        return y


def joint_masks(prior: Tensor, parents: Tensor) -> Tensor:
    """The prior of each joint and its own children: (N, J), (J,) -> (N, J)."""
    masks = prior.clone()
    for joint, parent in enumerate(parents.tolist()):
        if parent >= 0:
            masks[:, parent] += masks[:, joint]
    return masks


def masked_weights(logits: Tensor, masks: Tensor, prior: Tensor) -> Tensor:
    """softmax(logits) * masks**3, each row divided by its sum: all (N, J).

    It is computed as one softmax, where the product of small numbers cannot vanish. Rows without
    a mask have the softmax alone; rows without numbers have the prior.
    """
    masked = logits + _MASK_POWER * masks.log()
    excluded = masks.amax(dim=1, keepdim=True) <= 0
    weights = torch.where(excluded, logits, masked).softmax(dim=1)
    failed = ~weights.isfinite().all(dim=1, keepdim=True)
    if failed.any() or excluded.any():
        _log.warning(
            "of %d points %d have weights without the mask, %d the prior's",
            len(weights),
            int((excluded & ~failed).sum()),
            int(failed.sum()),
        )
    return torch.where(failed, prior, weights)


def _projection(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU())


def _check(points: Tensor, normals: Tensor, joints: Tensor, parents: Tensor, prior: Tensor) -> None:
    """Raises ValueError where the inputs do not fit together or hold no numbers."""
    count, bones = len(points), len(joints)
    for name, array, shape in (
        ("points", points, (count, 3)),
        ("normals", normals, (count, 3)),
        ("joints", joints, (bones, 3)),
        ("parents", parents, (bones,)),
        ("prior", prior, (count, bones)),
    ):
        if tuple(array.shape) != shape or 0 in shape:
            raise ValueError(f"{name} must be {shape} and not empty, not {tuple(array.shape)}")
        if not array.isfinite().all():
            raise ValueError(f"{name} holds values that are no numbers")
    if (parents >= torch.arange(bones, device=parents.device)).any():
        raise ValueError("a joint's parent must come before it")
