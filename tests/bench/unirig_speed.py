"""Measures UniRig's networks at full size: reading a shape, writing a skeleton, skinning.

    make bench-unirig        or: python -m tests.bench.unirig_speed --full

On the CPU in float32 and, where torch finds one, on a GPU in bfloat16 with CUDA graphs. No
checkpoint is needed: the weights are random, and such that eos is never the best token, so that
every request gets all its tokens. Each has one beam and is decoded greedily.

A floor is what the memory's bandwidth, measured first, allows: at each step the weights are read
once; and in the next column also the keys and values of each request. Hugging Face's OPT has the
same shape and weights. Peak memory is the process's resident set on the CPU, else what torch took
on the GPU. Load is the machine's, over the last minute: its cores may be shared.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from services.inference.unirig_geometry.vertex_weights import vertex_weights
from services.inference.unirig_network.decoding_loop import DecodingLoop, Finished, Request
from services.inference.unirig_network.generation import DecodingSettings
from services.inference.unirig_network.skeleton_model import (
    SkeletonModel,
    SkeletonModelConfig,
    load_skeleton_model,
)
from services.inference.unirig_network.skin_model import SkinConfig, SkinModel, mixed_precision
from services.inference.unirig_network.tokenizer import CLASS_TOKENS, EOS
from tests.bench import opt_baseline
from tests.bench.opt_baseline import Generation

CLASS = "articulationxl"
SKELETON_POINTS = 65_536
SKIN_POINTS = 32_768
JOINTS = 60
GIB = 2**30
HEADINGS = (
    "",
    "here",
    "floor: weights",
    "floor: with keys and values",
    "Hugging Face",
    "times as fast",
    "peak GiB",
    "load",
)


@dataclass(frozen=True)
class Plan:
    """What is measured on a device. tokens: of each request."""

    device: torch.device
    dtype: torch.dtype
    requests: tuple[int, ...]
    tokens: int
    points: tuple[int, ...]


QUICK_CPU = Plan(torch.device("cpu"), torch.float32, (1, 8), 32, (8192,))
FULL_CPU = Plan(torch.device("cpu"), torch.float32, (1, 8, 32), 32, (8192, 32_768, 100_000))
GPU = Plan(torch.device("cuda"), torch.bfloat16, (1, 8, 32), 512, (8192, 32_768, 100_000))


@dataclass(frozen=True)
class Row:
    """One line of the table, see HEADINGS."""

    what: str
    here: str
    weights_floor: str
    cache_floor: str
    baseline: str
    times: str
    peak: str
    load: str


def row(what: str, here: str, peak: int, *floors_and_baseline: str) -> Row:
    cells = (*floors_and_baseline, "", "", "", "")[:4]
    return Row(what, here, *cells, f"{peak / GIB:.1f}", f"{os.getloadavg()[0]:.1f}")


def now(device: torch.device) -> float:
    """Seconds, once the device has done all it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes since forget_peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text().splitlines()
    [peak] = [line.split()[1] for line in status if line.startswith("VmHWM:")]
    return int(peak) * 1024


def duration(device: torch.device, action: Callable[[], object]) -> float:
    """Seconds; on a GPU of a second run, after one that loads the kernels."""
    if device.type == "cuda":
        action()
    start = now(device)
    action()
    return now(device) - start


def bandwidth(device: torch.device) -> float:
    """Bytes/s: the fastest of five reads of 1 GiB, or of five copies of it if that is more."""
    source = torch.ones(GIB // 4, device=device)
    target = torch.zeros_like(source)
    read = min(duration(device, source.sum) for _ in range(5))
    copied = min(duration(device, lambda: target.copy_(source)) for _ in range(5))
    return max(GIB / read, 2 * GIB / copied)


def endless_model(plan: Plan) -> SkeletonModel:
    """Random weights under which the logit of eos is far below all others."""
    config = SkeletonModelConfig()
    weights = SkeletonModel(config).state_dict()
    weights["transformer.model.decoder.final_layer_norm.bias"].fill_(1.0)
    weights["transformer.model.decoder.embed_tokens.weight"][EOS] = -1.0
    return load_skeleton_model(config, weights, plan.device, plan.dtype)


def limb(points: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Points on a tube, normals, joints along its axis, their parents, and a prior."""
    generator = torch.Generator().manual_seed(0)
    turn, along = torch.rand(2, points, generator=generator)
    normals = torch.stack([(turn * 2 * np.pi).cos(), (turn * 2 * np.pi).sin(), 0 * turn], dim=1)
    surface = 0.15 * normals + torch.tensor([0.0, 0.0, 1.0]) * (2 * along - 1).unsqueeze(1)
    joints = torch.zeros(JOINTS, 3)
    joints[:, 2] = torch.linspace(-1, 1, JOINTS)
    near = torch.cdist(surface, joints) ** -2
    return surface, normals, joints, torch.arange(JOINTS) - 1, near / near.sum(dim=1, keepdim=True)


def encoder_row(model: SkeletonModel, plan: Plan) -> Row:
    points, normals = (part[None].to(plan.device) for part in limb(SKELETON_POINTS)[:2])
    forget_peak(plan.device)
    with torch.no_grad():
        seconds = duration(plan.device, lambda: model.condition(points, normals))
    what = f"shape encoder, {SKELETON_POINTS:,} points"
    return row(what, f"{seconds * 1e3:,.0f} ms", peak_memory(plan.device))


def decode(model: SkeletonModel, plan: Plan, prefixes: int) -> Generation:
    """All requests in flight at once, from the first step to the last."""
    settings = DecodingSettings(
        beams=1, sample=False, repetition_penalty=1.0, max_tokens=plan.tokens
    )
    loop = DecodingLoop(model, slots=prefixes, beams=1, max_tokens=plan.tokens)
    loop.warm_up()
    start = now(plan.device)
    for seed in range(prefixes):
        loop.add(Request(condition(plan.device), CLASS, settings, seed))
    read = now(plan.device)
    sequences: list[tuple[int, ...]] = []
    while loop.active:
        sequences += [event.sequence for event in loop.step() if isinstance(event, Finished)]
    written = now(plan.device)
    assert [len(sequence) for sequence in sequences] == [2 + plan.tokens] * prefixes
    return Generation(read - start, prefixes * plan.tokens / (written - read))


def condition(device: torch.device) -> Tensor:
    config = SkeletonModelConfig()
    return torch.randn(config.encoder.tokens, config.transformer.hidden, device=device)


def baseline(model: SkeletonModel, plan: Plan, requests: int) -> Generation | None:
    if not opt_baseline.is_installed():
        return None
    prefix = model.prefix(condition(plan.device), CLASS_TOKENS[CLASS])
    prefixes = prefix.expand(requests, -1, -1)
    return opt_baseline.generate(model.transformer, prefixes, plan.tokens)


def floors(model: SkeletonModel, plan: Plan, requests: int, bytes_per_s: float) -> list[float]:
    """Tokens/s where only the weights are read, and where keys and values are as well."""
    config = model.config.transformer
    read = [*model.transformer.model.decoder.layers.parameters(), model.transformer.lm_head.weight]
    weights = sum(weight.numel() * weight.element_size() for weight in read)
    positions = model.config.prefix + plan.tokens / 2
    pairs = 2 * config.layers * config.hidden * positions * plan.dtype.itemsize
    return [
        requests * bytes_per_s / (weights + pairs * cached * requests) for cached in (False, True)
    ]


def decoding_rows(model: SkeletonModel, plan: Plan, bytes_per_s: float) -> Iterator[Row]:
    """A row for one request's prefix, and for each number of requests one for the tokens."""
    for requests in plan.requests:
        forget_peak(plan.device)
        here = decode(model, plan, requests)
        peak = peak_memory(plan.device)
        there = baseline(model, plan, requests)
        if requests == 1:
            yield row(
                f"prefill, {model.config.prefix:,} positions",
                f"{here.prefill * 1e3:,.0f} ms",
                peak,
                "",
                "",
                f"{there.prefill * 1e3:,.0f} ms" if there else f"missing: {opt_baseline.INSTALL}",
                f"{there.prefill / here.prefill:.1f}" if there else "",
            )
        yield row(
            f"decoding, {requests} in flight",
            f"{here.rate:,.1f} tokens/s",
            peak,
            *(
                f"{floor:,.1f} ({floor / here.rate:.1f}×)"
                for floor in floors(model, plan, requests, bytes_per_s)
            ),
            f"{there.rate:,.1f} tokens/s" if there else f"missing: {opt_baseline.INSTALL}",
            f"{here.rate / there.rate:.1f}" if there else "",
        )


def skin_rows(plan: Plan) -> Iterator[Row]:
    """The network at so many points; then from points to so many vertices, on the CPU."""
    config = SkinConfig()
    on_gpu = plan.device.type == "cuda"
    model = SkinModel(mixed_precision(config) if on_gpu else config).to(plan.device)
    for points in plan.points:
        asked = [part.to(plan.device) for part in limb(points)]
        forget_peak(plan.device)
        seconds = duration(plan.device, lambda asked=asked: model(*asked))
        what = f"skin network, {points:,} points, {JOINTS} joints"
        yield row(what, f"{seconds * 1e3:,.0f} ms", peak_memory(plan.device))


def spreading_rows(plan: Plan) -> Iterator[Row]:
    """From the weights of points to those of vertices, which NumPy does."""
    surface, _, _, parents, skin = (part.numpy() for part in limb(SKIN_POINTS))
    for count in plan.points:
        vertices = limb(count)[0].numpy()
        faces = (np.arange(count)[:, None] + np.arange(3)) % count
        forget_peak(plan.device)
        start = time.perf_counter()
        for _ in vertex_weights(surface, skin, vertices, faces, parents):
            pass
        seconds = time.perf_counter() - start
        what = f"from {SKIN_POINTS:,} points to {count:,} vertices"
        yield row(what, f"{seconds * 1e3:,.0f} ms", peak_memory(plan.device))


def rows(plan: Plan) -> Iterator[Row]:
    bytes_per_s = bandwidth(plan.device)
    yield row("memory's bandwidth", f"{bytes_per_s / 1e9:,.1f} GB/s", peak_memory(plan.device))
    model = endless_model(plan)
    yield encoder_row(model, plan)
    yield from decoding_rows(model, plan, bytes_per_s)
    del model
    yield from skin_rows(plan)
    if plan.device.type == "cpu":
        yield from spreading_rows(plan)


def print_table(plan: Plan) -> None:
    print("| " + " | ".join(HEADINGS) + " |")
    print("| --- |" + " ---: |" * (len(HEADINGS) - 1))
    for line in rows(plan):
        print("| " + " | ".join(astuple(line)) + " |", flush=True)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="also what takes long on a CPU")
    plan = FULL_CPU if parser.parse_args().full else QUICK_CPU
    print(shlex.join(["python", "-m", "tests.bench.unirig_speed", *sys.argv[1:]]))
    print(f"{processor()}, {os.cpu_count()} cores; torch {torch.__version__}")
    threads = torch.get_num_threads()
    print(f"\nCPU, float32, {threads} thread(s), {plan.tokens} tokens a request\n")
    print_table(plan)
    if plan is QUICK_CPU:
        print("\nLeft out without --full: 32 in flight; skinning 32,768 and 100,000 points")
    if not torch.cuda.is_available():
        print("\nGPU, bfloat16: missing, torch finds none")
        return
    name = torch.cuda.get_device_name()
    print(f"\n{name}, bfloat16, CUDA graphs, {GPU.tokens} tokens a request\n")
    print_table(GPU)


if __name__ == "__main__":
    main()
