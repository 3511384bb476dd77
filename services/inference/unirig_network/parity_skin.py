"""The skin network against outputs of the reference implementation.

Files are spconv_*.pt (sparse convolutions) and skin_*.pt (the network at a small size, with
its weights, inputs, and outputs of each stage). Tensors, lists and dicts only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from services.inference.unirig_network.comparison import Comparison
from services.inference.unirig_network.point_transformer import (
    PointTransformerConfig,
    patched,
    voxel_coordinates,
)
from services.inference.unirig_network.shape_encoder import ShapeEncoderConfig
from services.inference.unirig_network.skin_model import SkinConfig, SkinModel
from services.inference.unirig_network.space_filling_curves import (
    curve_codes,
    curve_orders,
    seeded_curve_order,
)
from services.inference.unirig_network.submanifold_convolution import (
    IMPLICIT_GEMM,
    NATIVE_CPU,
    NATIVE_GPU,
    DuplicateRule,
    Flow,
    submanifold_convolution,
    voxel_index,
)

_BOUND = 1e-4

# What points of one voxel did in the reference: in its stem, in its blocks. The first two rules
# are experiments that no device follows.
_DUPLICATES = {
    "dups_first": 2 * (DuplicateRule("first", Flow.KEPT_TO_ALL, Flow.KEPT_TO_ALL),),
    "dups_last": 2 * (DuplicateRule("last", Flow.KEPT_TO_ALL, Flow.KEPT_TO_ALL),),
    "dups_native": (NATIVE_CPU, NATIVE_CPU),
    "dups_mask": (IMPLICIT_GEMM, IMPLICIT_GEMM),
    "dups_gpu": (NATIVE_GPU, IMPLICIT_GEMM),
}

# Where the reference's settings are here.
_FIELDS = {
    "feat_dim": ("skin", "width"),
    "num_heads": ("skin", "heads"),
    "bone_embed_dim": ("skin", "bone_width"),
    "num_bone_attn": ("skin", "bone_blocks"),
    "num_mesh_bone_attn": ("skin", "mesh_blocks"),
    "mlp_dim": ("skin", "read_out_width"),
    "mesh_encoder.enc_depths": ("points", "blocks"),
    "mesh_encoder.enc_channels": ("points", "channels"),
    "mesh_encoder.enc_num_head": ("points", "heads"),
    "mesh_encoder.enc_patch_size": ("points", "patches"),
    "global_encoder.width": ("shape", "width"),
    "global_encoder.heads": ("shape", "heads"),
    "global_encoder.num_encoder_layers": ("shape", "layers"),
    "global_encoder.token_num": ("shape", "tokens"),
}
# The first is how many points the reference reads out at once; the second is not used at all.
_WITHOUT_EFFECT = ("num_train_vertex", "global_encoder.num_latents")


def convolution_comparisons(path: Path) -> Iterator[Comparison]:
    """Outputs of spconv's CPU build: absolute errors."""
    for name, case in torch.load(path, weights_only=True).items():
        index = voxel_index(case["coords"], case["weight"].shape[1])
        out = submanifold_convolution(
            case["features"], case["weight"], case["bias"], index, NATIVE_CPU
        )
        yield Comparison(f"{path.stem} {name}", _largest(out, case["out"]), _BOUND)


def network_comparisons(path: Path) -> Iterator[Comparison]:
    """Each case of a file: integers exactly, features by relative, weights by absolute error."""
    golden = torch.load(path, weights_only=True)
    config = skin_config(golden["config_overrides"])
    weights = {name.removeprefix("model."): value for name, value in golden["state_dict"].items()}
    for name, case in golden["cases"].items():
        label = f"{path.stem} {name}"
        model = SkinModel(case_config(name, case, config))
        model.load_state_dict(weights)
        curves = _reference_curves(case, golden["cases"])
        yield from _integer_comparisons(label, case, model.config.points.patches[0])
        captured, skin = _run(model, case["batch"], curves)
        for stage, ours in captured.items():
            if stage in case["out"]:
                error = _relative(ours, case["out"][stage])
                yield Comparison(f"{label} {stage} (relative)", error, _BOUND)
        yield Comparison(f"{label} weights", _largest(skin, case["out"]["skin_pred"]), _BOUND)


def skin_config(overrides: Mapping[str, Any]) -> SkinConfig:
    """The configuration of a file. Raises ValueError for a setting that is not known here."""
    parts: dict[str, dict[str, Any]] = {"skin": {}, "points": {}, "shape": {}}
    for setting, value in overrides.items():
        if setting in _WITHOUT_EFFECT:
            continue
        if setting not in _FIELDS:
            raise ValueError(f"the reference's setting {setting!r} is not known")
        part, field = _FIELDS[setting]
        parts[part][field] = tuple(value) if isinstance(value, list) else value
    return SkinConfig(
        **parts["skin"],
        points=PointTransformerConfig(**parts["points"]),
        shape=ShapeEncoderConfig(**parts["shape"]),
    )


def case_config(name: str, case: Mapping[str, Any], config: SkinConfig) -> SkinConfig:
    """What a case alone does otherwise, as its name and its outputs say."""
    points, shape = config.points, config.shape
    for prefix, (stem_rule, block_rule) in _DUPLICATES.items():
        if name.startswith(prefix):
            points = replace(points, stem_rule=stem_rule, block_rule=block_rule)
    if name.endswith("fp16attn"):
        points = replace(points, attention_dtype=torch.float16)
    if "global_latents" in case["out"]:
        shape = replace(shape, tokens=case["out"]["global_latents"].shape[1])
    return replace(config, points=points, shape=shape)


def _reference_curves(case: Mapping[str, Any], cases: Mapping[str, Any]) -> Tensor:
    """The points along the curves as the reference had them: (4, N).

    Its sort was free in the order of points of one voxel. Where a case does not hold the result,
    another case of the same points and seed may.
    """
    points = case["batch"]["vertices"]
    for other in (case, *cases.values()):
        same = other["seed"] == case["seed"] and torch.equal(other["batch"]["vertices"], points)
        if same and "serialized_order" in other["out"]:
            order: Tensor = other["out"]["serialized_order"]
            return order
    codes = curve_codes(voxel_coordinates(points[0]))
    return codes.argsort(dim=1)[case["out"]["order_perm"]]


def _integer_comparisons(label: str, case: Mapping[str, Any], patch: int) -> Iterator[Comparison]:
    """The order of the curves, voxels, codes along the curves, and the points of the patches."""
    out = case["out"]
    curve_order = torch.tensor(seeded_curve_order(case["seed"]))
    yield _exact(f"{label} order_perm", curve_order, out["order_perm"])
    if "grid_coord" not in out:
        return
    voxels = voxel_coordinates(case["batch"]["vertices"][0])
    codes = curve_codes(voxels)[out["order_perm"]]
    yield _exact(f"{label} grid_coord", voxels, out["grid_coord"])
    yield _exact(f"{label} serialized_code", codes, out["serialized_code"])
    yield _exact(
        f"{label} serialized_order, but for points of one voxel",
        codes.gather(1, curve_orders(codes)),
        codes.gather(1, out["serialized_order"]),
    )
    yield _exact(f"{label} pad", patched(torch.arange(len(voxels)), patch), out["pad"])


def _run(
    model: SkinModel, batch: Mapping[str, Tensor], curves: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """The outputs of the stages, by the reference's names, and the weights (N, J)."""
    parts: dict[str, list[Tensor]] = {}
    for name, module in _stages(model).items():
        outputs = parts[name] = []
        module.register_forward_hook(
            lambda module, inputs, output, outputs=outputs: outputs.append(output)
        )
    skin = model(
        batch["vertices"][0],
        batch["normals"][0],
        batch["joints"][0],
        batch["parents"][0],
        batch["voxel_skin"][0],
        curves=curves,
    )
    return {name: torch.cat(outputs) for name, outputs in parts.items()}, skin


def _stages(model: SkinModel) -> dict[str, nn.Module]:
    first_block = model.get_submodule("mesh_encoder.enc.enc0.block0")
    stages = {
        "global_latents": model.out_proj,
        "bone_feat": model.bone_encoder,
        "ptv3_embedding_feat": model.mesh_encoder.embedding,
        "ptv3_enc0_block0_cpe_feat": first_block.get_submodule("cpe"),
        "ptv3_enc0_block0_attn_feat": first_block.get_submodule("attn"),
        "feat_map": model.feat_map,
        "mesh_feat_after_cross": model.mesh_bone_attn[-1],
        "downscale_first_chunk": model.downscale,
        "logits_first_chunk": model.skinweight_pred,
    }
    for number, blocks in enumerate(model.config.points.blocks):
        last_block = f"mesh_encoder.enc.enc{number}.block{blocks - 1}"
        stages[f"ptv3_enc{number}_feat"] = model.get_submodule(last_block)
    return stages


def _exact(name: str, ours: Tensor, reference: Tensor) -> Comparison:
    if ours.shape != reference.shape:
        return Comparison(name, float("inf"), 0.0)
    return Comparison(name, float((ours != reference).sum()), 0.0)


def _largest(ours: Tensor, reference: Tensor) -> float:
    """The largest absolute error; infinite where either has no number."""
    error = (ours - reference).abs().max()
    return float(error) if error.isfinite() else float("inf")


def _relative(ours: Tensor, reference: Tensor) -> float:
    """The largest error over the largest value. Of a chunk the reference has the first rows."""
    rows = reference.flatten(0, -2)
    ours = ours.flatten(0, -2)[: len(rows)]
    return _largest(ours, rows) / float(rows.abs().max())
