"""The benchmark's rows as tables to be read."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from rich.box import MARKDOWN
from rich.table import Table

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def skeleton_table(rows: Sequence[Row]) -> Table:
    """One line a model and engine, and the means of each engine."""
    rows = [row for row in rows if row["task"] == "skeleton"]
    several = len({row["method"] for row in rows}) > 1
    columns: list[Column] = [
        ("model", lambda row: row["model"]),
        *([("engine", lambda row: row["method"])] if several else []),
        ("triangles", lambda row: _number(row, "triangles", "{:,.0f}")),
        ("joints", lambda row: _number(row, "joints", "{:.0f}")),
        ("in the reference", lambda row: _number(row, "reference_joints", "{:.0f}")),
        ("J2J %", lambda row: _number(row, "j2j")),
        ("J2B %", lambda row: _number(row, "j2b")),
        ("B2B %", lambda row: _number(row, "b2b")),
        ("joint IoU", lambda row: _number(row, "iou")),
        ("CPU s", lambda row: _number(row, "cpu_seconds", "{:.1f}")),
        ("MiB", lambda row: _number(row, "mebibytes", "{:.0f}")),
        ("", lambda row: row.get("error", "")),
    ]
    means = [
        {"model": "mean", "method": method, **_means([r for r in rows if r["method"] == method])}
        for method in dict.fromkeys(row["method"] for row in rows)
    ]
    return _table(columns, [*rows, *means])


def skin_table(rows: Sequence[Row]) -> Table:
    """One line a model, the methods side by side."""
    rows = [row for row in rows if row["task"] == "skin"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    by_model = {model: [row for row in rows if row["model"] == model] for model in models}

    def side_by_side(key: str, scale: float = 1.0) -> Callable[[Row], str]:
        return lambda line: " / ".join(
            _number(line[method], key, "{:.2f}", scale) if method in line else "–"
            for method in methods
        )

    order = " / ".join(methods)
    columns: list[Column] = [
        ("model", lambda line: line["model"]),
        ("bones", lambda line: line["bones"]),
        (f"deformation error %: {order}", side_by_side("deformation")),
        ("L1", side_by_side("l1")),
        ("stretch %", side_by_side("stretch")),
        ("unweighted %", side_by_side("unweighted", 100)),
        ("", lambda line: line["error"]),
    ]
    lines = [
        {
            "model": model,
            "bones": own[0]["bones"],
            "error": " ".join(row["error"] for row in own if "error" in row),
            **{row["method"]: row for row in own},
        }
        for model, own in by_model.items()
    ]
    return _table(columns, lines)


def method_table(rows: Sequence[Row]) -> Table:
    """One line for each way to skin: the means over models."""
    rows = [row for row in rows if row["task"] == "skin"]
    columns: list[Column] = [
        ("method", lambda row: row["method"]),
        ("models with weights", lambda row: _number(row, "compared", "{:.0f}")),
        ("L1", lambda row: _number(row, "l1")),
        ("precision", lambda row: _number(row, "precision")),
        ("recall", lambda row: _number(row, "recall")),
        ("deformation error %", lambda row: _number(row, "deformation")),
        ("worst", lambda row: _number(row, "worst")),
        ("all models", lambda row: _number(row, "models", "{:.0f}")),
        ("stretch %", lambda row: _number(row, "stretch")),
        ("unweighted %", lambda row: _number(row, "unweighted", "{:.2f}", 100)),
        ("CPU s", lambda row: _number(row, "cpu_seconds")),
        ("MiB", lambda row: _number(row, "mebibytes", "{:.0f}")),
    ]
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        compared = [row["deformation"] for row in own if "deformation" in row]
        line = {"method": method, "compared": len(compared), "models": len(own), **_means(own)}
        lines.append(line | ({"worst": max(compared)} if compared else {}))
    return _table(columns, lines)


def size_table(rows: Sequence[Row]) -> Table:
    """One line a size: the cost of its skeleton and its weights."""
    columns: list[Column] = [
        ("triangles", lambda row: _number(row, "triangles", "{:,.0f}")),
        ("joints", lambda row: _number(row, "joints", "{:.0f}")),
        ("skeleton: CPU s", lambda row: _number(row["skeleton"], "cpu_seconds", "{:.1f}")),
        ("MiB", lambda row: _number(row["skeleton"], "mebibytes", "{:.0f}")),
        ("weights: CPU s", lambda row: _number(row["skin"], "cpu_seconds", "{:.1f}")),
        ("MiB", lambda row: _number(row["skin"], "mebibytes", "{:.0f}")),
    ]
    return _table(columns, rows)


def _means(rows: Sequence[Row]) -> Row:
    """The mean of every measure over the rows that have it."""
    keys = ("j2j", "j2b", "b2b", "iou", "l1", "precision", "recall", "deformation", "stretch")
    keys += ("unweighted", "cpu_seconds", "mebibytes")
    values = {key: [row[key] for row in rows if key in row] for key in keys}
    return {key: float(np.mean(found)) for key, found in values.items() if found}


def _number(row: Row, key: str, form: str = "{:.2f}", scale: float = 1.0) -> str:
    return form.format(scale * row[key]) if key in row else "–"


def _table(columns: Sequence[Column], rows: Iterable[Row]) -> Table:
    table = Table(box=MARKDOWN)
    for number, (title, _) in enumerate(columns):
        table.add_column(title, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell(row) for _, cell in columns))
    return table
