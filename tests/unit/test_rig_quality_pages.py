"""What the benchmark of rigs shows: its tables and its contact sheets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from services.inference.geometry import SkinWeights
from tests.bench.rig_quality.contact_sheet import SheetRow, draw_sheet
from tests.bench.rig_quality.tables import Row, method_table, skeleton_table, skin_table
from tests.generated_bodies import as_mesh, capsule, chain_of

COSTS: Row = {"cpu_seconds": 1.0, "mebibytes": 100.0}


def lines_of(table: Table) -> list[list[str]]:
    console = Console(width=250)
    with console.capture() as printed:
        console.print(table)
    rows = [line for line in printed.get().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_mean_is_over_the_models_that_have_a_reference() -> None:
    common: Row = {"task": "skeleton", "method": "geometric", "triangles": 12, **COSTS}
    measures: Row = {"reference_joints": 4, "j2b": 1.0, "b2b": 1.0, "iou": 0.5}
    rows = [
        {"model": "fox", "joints": 3, "j2j": 2.0, **measures, **common},
        {"model": "cat", "joints": 5, "j2j": 4.0, **measures, **common},
        {"model": "vase", "joints": 1, **common},
        {"model": "dust", "error": "It has no faces.", **common},
    ]
    heading, _, fox, _, vase, dust, mean = lines_of(skeleton_table(rows))
    place = heading.index("J2J %")
    assert (fox[place], vase[place], mean[place]) == ("2.00", "–", "3.00")
    assert dust[-1] == "It has no faces."


def test_methods_stand_side_by_side_and_one_that_failed_says_so() -> None:
    common: Row = {"task": "skin", "model": "fox", "bones": "reference", **COSTS}
    scores: Row = {"l1": 0.5, "precision": 1.0, "recall": 1.0, "stretch": 3.0}
    rows: list[Row] = [
        {"method": "nearest", "deformation": 1.5, "unweighted": 0.0, **scores, **common},
        {"method": "blender", "error": "blender: no such thing", **common},
        {"method": "geometric", "deformation": 0.5, "unweighted": 0.25, **scores, **common},
    ]
    _, _, [model, bones, deformation, l1, _, unweighted, error] = lines_of(skin_table(rows))
    assert (model, bones, l1) == ("fox", "reference", "0.50 / – / 0.50")
    assert deformation == "1.50 / – / 0.50"
    assert unweighted == "0.00 / – / 25.00"
    assert error == "blender: no such thing"
    heading, _, *methods = lines_of(method_table(rows))
    compared, worst = heading.index("models with weights"), heading.index("worst")
    assert [line[compared] for line in methods] == ["1", "0", "1"]
    assert [line[worst] for line in methods] == ["1.50", "–", "0.50"]


def test_a_sheet_shows_both_skeletons_and_the_weights(tmp_path: Path) -> None:
    mesh = as_mesh(capsule((0, 0, 0), (0, 2, 0), 0.2))
    skeleton = chain_of((0, 0, 0), (0, 1, 0), (0, 2, 0))
    upper = (mesh.vertices[:, 1] > 1).astype(np.int32)[:, None]
    skin = SkinWeights(upper, np.ones_like(upper, np.float32))
    beside = replace(skeleton, heads=skeleton.heads + np.float32([0.3, 0, 0]))
    row = SheetRow("a limb", mesh, skeleton, skin, beside)
    draw_sheet([row, replace(row, reference=None), row], tmp_path / "sheet.png")
    picture = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    high, wide, _ = picture.shape
    first, second = picture[: high // 2, : wide // 10], picture[: high // 2, wide // 2 :]
    orange, blue = np.array([232, 89, 12]), np.array([28, 95, 212])
    assert (np.abs(first - orange).sum(axis=2) < 60).sum() > 20
    assert (np.abs(first - blue).sum(axis=2) < 60).sum() > 20
    bones_alone = second[:, : wide // 10]
    assert (np.abs(bones_alone - blue).sum(axis=2) < 60).sum() == 0
    weights = picture[: high // 2, wide // 10 : wide // 5].reshape(-1, 3)
    hues = weights[np.ptp(weights, axis=1) > 40]
    # Two joints: two colours that are far apart.
    assert len(hues) > 500
    assert np.ptp(hues[:, 0]) > 60
