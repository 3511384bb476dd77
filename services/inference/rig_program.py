"""The steps of a job on arrays, as a program from files to files (see limited_process):

python -m services.inference.rig_program pack OUT_NPZ MESH_NPZ SKELETON_NPZ [WEIGHTS_NPZ]
    all arrays in one file, which load_mesh, load_skeleton and load_weights all read
python -m services.inference.rig_program merge SKELETON_NPZ ASSET_MESH_NPZ FOLDER
        SKINNED_MESH_NPZ SKINNED_SKELETON_NPZ SKINNED_WEIGHTS_NPZ
    the weights of the skinned model on the skeleton and the asset's mesh: FOLDER/weights.npz, and
    FOLDER/report.json with "notes" for the user
python -m services.inference.rig_program verify RIG_NPZ [FILE FOLDER]...
    each FILE, as the read step read it back into FOLDER, says the same as the packed arrays
"""

import json
import sys
from pathlib import Path

import numpy as np

from services.inference.checks import check_skeleton, check_weights
from services.inference.formats.gltf import read_glb_document
from services.inference.formats.joints import INFLUENCES
from services.inference.formats.program_output import (
    Refusal,
    invalid_mesh,
    report_progress,
    run_program,
)
from services.inference.geometry import load_mesh, load_skeleton, load_weights, save_weights
from services.inference.result_checks import check_bind_pose, check_read_back
from services.inference.weight_transfer import (
    joints_without_skin,
    match_joints,
    transfer_weights,
)


def main() -> None:
    match sys.argv[1:]:
        case ["pack", out, *parts]:
            pack(Path(out), [Path(part) for part in parts])
        case ["merge", skeleton, asset, folder, *skinned] if len(skinned) == 3:
            merge(Path(skeleton), Path(asset), Path(folder), [Path(part) for part in skinned])
        case ["verify", rig, *pairs]:
            verify(Path(rig), [Path(path) for path in pairs])
        case _:
            sys.exit(__doc__)


def pack(out: Path, parts: list[Path]) -> None:
    arrays = {}
    for part in parts:
        with np.load(part, allow_pickle=False) as loaded:
            arrays.update(loaded)
    np.savez_compressed(out, **arrays)


def merge(skeleton_path: Path, asset_path: Path, folder: Path, parts: list[Path]) -> None:
    asset, skeleton = load_mesh(asset_path), load_skeleton(skeleton_path)
    source, skinned, skin = load_mesh(parts[0]), load_skeleton(parts[1]), load_weights(parts[2])
    try:
        check_skeleton(asset, skeleton)
        report_progress(0.2, "Matching joints")
        matches = match_joints(skinned, skin, skeleton)
        report_progress(0.4, "Transferring weights")
        merged = transfer_weights(source, skin, matches, asset)
        check_weights(asset, skeleton, merged, INFLUENCES)
    except ValueError as error:
        raise invalid_mesh(str(error)) from error
    folder.mkdir()
    save_weights(folder / "weights.npz", merged)
    note = joints_without_skin(skinned, skeleton, matches)
    (folder / "report.json").write_text(json.dumps({"notes": [note] if note else []}))


def verify(packed: Path, pairs: list[Path]) -> None:
    mesh, skeleton = load_mesh(packed), load_skeleton(packed)
    with np.load(packed, allow_pickle=False) as arrays:
        is_skinned = "weights" in arrays
    skin = load_weights(packed) if is_skinned else None
    for number, (file, folder) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        report_progress(2 * number / len(pairs), "Checking the results")
        skeleton_path, weights_path = folder / "skeleton.npz", folder / "weights.npz"
        read_skeleton = load_skeleton(skeleton_path) if skeleton_path.exists() else None
        read_skin = load_weights(weights_path) if weights_path.exists() else None
        read_mesh = load_mesh(folder / "mesh.npz")
        try:
            check_read_back(mesh, skeleton, skin, read_mesh, read_skeleton, read_skin)
            if file.suffix in (".glb", ".vrm"):
                check_bind_pose(read_glb_document(file))
        except ValueError as error:
            kind = file.suffix.lstrip(".").upper()
            text = f"The {kind} result did not pass its check: {error}."
            raise Refusal("PROCESSING_FAILED", text) from error


if __name__ == "__main__":
    run_program(main)
