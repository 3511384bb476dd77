"""The steps of a job on arrays, as a program from files to files (see limited_process):

python -m services.inference.rig_program pack OUT_NPZ MESH_NPZ SKELETON_NPZ [WEIGHTS_NPZ]
    all arrays in one file, which load_mesh, load_skeleton and load_weights all read
python -m services.inference.rig_program merge SKELETON_NPZ SKINNED_NPZ ASSET_MESH_NPZ FOLDER
    the weights of the skinned file on the skeleton and the asset's mesh: FOLDER/weights.npz, and
    FOLDER/report.json with "notes" for the user
"""

import json
import sys
from pathlib import Path

import numpy as np

from services.inference.checks import check_skeleton, check_weights
from services.inference.formats.joints import INFLUENCES
from services.inference.formats.program_output import (
    invalid_mesh,
    report_progress,
    run_program,
)
from services.inference.geometry import load_mesh, load_skeleton, load_weights, save_weights
from services.inference.weight_transfer import (
    joints_without_skin,
    match_joints,
    transfer_weights,
)


def main() -> None:
    match sys.argv[1:]:
        case ["pack", out, *parts]:
            pack(Path(out), [Path(part) for part in parts])
        case ["merge", skeleton, skinned, asset, folder]:
            merge(Path(skeleton), Path(skinned), Path(asset), Path(folder))
        case _:
            sys.exit(__doc__)


def pack(out: Path, parts: list[Path]) -> None:
    arrays = {}
    for part in parts:
        with np.load(part, allow_pickle=False) as loaded:
            arrays.update(loaded)
    np.savez_compressed(out, **arrays)


def merge(skeleton_path: Path, skinned_path: Path, asset_path: Path, folder: Path) -> None:
    asset, skeleton = load_mesh(asset_path), load_skeleton(skeleton_path)
    skinned, skin = load_skeleton(skinned_path), load_weights(skinned_path)
    try:
        check_skeleton(asset, skeleton)
        report_progress(0.2, "Matching joints")
        matches = match_joints(skinned, skin, skeleton)
        report_progress(0.4, "Transferring weights")
        merged = transfer_weights(load_mesh(skinned_path), skin, matches, asset)
        check_weights(asset, skeleton, merged, INFLUENCES)
    except ValueError as error:
        raise invalid_mesh(str(error)) from error
    save_weights(folder / "weights.npz", merged)
    note = joints_without_skin(skinned, skeleton, matches)
    (folder / "report.json").write_text(json.dumps({"notes": [note] if note else []}))


if __name__ == "__main__":
    run_program(main)
