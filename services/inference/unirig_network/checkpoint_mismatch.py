"""What tells a state dict from the one a model has."""

from collections.abc import Mapping

import torch

_SHOWN = 20


def mismatch_report(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> str | None:
    """What differs in names, shapes or types: counts and the first 20 of each. None if nothing.

    expected: as a model built on the meta device gives it (`state_dict()`); values are not read.
    """
    missing = [f"{name} {_form(tensor)}" for name, tensor in expected.items() if name not in found]
    unexpected = [
        f"{name} {_form(tensor)}" for name, tensor in found.items() if name not in expected
    ]
    wrong = [
        f"{name} is {_form(found[name])} but should be {_form(tensor)}"
        for name, tensor in expected.items()
        if name in found and _form(found[name]) != _form(tensor)
    ]
    sections = [
        _section("missing", missing),
        _section("unexpected", unexpected),
        _section("of another shape or type", wrong),
    ]
    return "\n".join(section for section in sections if section) or None


def _form(tensor: torch.Tensor) -> str:
    """Shape and type, such as "(267, 1024) float32"."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _section(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    shown = [f"  {line}" for line in lines[:_SHOWN]]
    if len(lines) > _SHOWN:
        shown.append(f"  … and {len(lines) - _SHOWN} more")
    return "\n".join([f"{len(lines)} {title}:", *shown])
