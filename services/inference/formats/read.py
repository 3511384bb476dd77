"""The step that reads a user's file.

    python -m services.inference.formats.read [--max-triangles N] ASSET OUTDIR

ASSET is an .obj, .fbx, .glb or .vrm file (by its ending). Into OUTDIR, which is made where it is
missing, go

- mesh.npz (geometry.Mesh): every mesh of the file in its rest pose and in world space;
- skeleton.npz (geometry.Skeleton), where the file carries a skeleton;
- weights.npz (geometry.SkinWeights, for the vertices of mesh.npz), where its meshes are skinned;
- report.json: {"format", "triangles", "vertices", "parts", "has_skeleton", "has_weights", "notes"}.

Progress and refusals are JSON lines on stdout. FBX is read by Blender: this process becomes it.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from services.inference.formats.fbx_scan import scan_fbx
from services.inference.formats.glb import GlbModel, read_glb
from services.inference.formats.gltf import read_glb_document, read_json
from services.inference.formats.gltf_references import check_references
from services.inference.formats.mesh_checks import DEFAULT_MAX_TRIANGLES
from services.inference.formats.obj import read_obj
from services.inference.formats.program_output import Refusal, report_progress, run_program
from services.inference.geometry import (
    Mesh,
    Skeleton,
    SkinWeights,
    save_mesh,
    save_skeleton,
    save_weights,
)

BLENDER_PROGRAM = "services.inference.blender.program"
DRACO = "KHR_draco_mesh_compression"


def become_blender(arguments: Sequence[str]) -> None:
    """Replaces this process by the Blender program, which may not start one of its own."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", BLENDER_PROGRAM, *arguments])  # noqa: S606


def uses_draco(path: Path) -> bool:
    """Whether only Blender can unpack the meshes of a GLB file."""
    return DRACO in read_json(path).get("extensionsUsed", [])


def save_model(
    folder: Path,
    asset: Path,
    mesh: Mesh,
    skeleton: Skeleton | None,
    skin: SkinWeights | None,
    notes: Sequence[str],
) -> None:
    """Writes what was read from asset, and the report."""
    folder.mkdir(parents=True, exist_ok=True)
    save_mesh(folder / "mesh.npz", mesh)
    if skeleton is not None:
        save_skeleton(folder / "skeleton.npz", skeleton)
    if skin is not None:
        save_weights(folder / "weights.npz", skin)
    report = {
        "format": asset.suffix.lower().lstrip("."),
        "triangles": len(mesh.faces),
        "vertices": len(mesh.vertices),
        "parts": len(mesh.part_names),
        "has_skeleton": skeleton is not None,
        "has_weights": skin is not None,
        "notes": list(notes),
    }
    (folder / "report.json").write_text(json.dumps(report))


def read_glb_file(path: Path, max_triangles: int) -> GlbModel:
    return read_glb(read_glb_document(path), max_triangles)


def main() -> None:
    parser = argparse.ArgumentParser(description="Reads a model into arrays.")
    parser.add_argument("asset", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--max-triangles", type=int, default=DEFAULT_MAX_TRIANGLES)
    options = parser.parse_args()
    asset, folder, limit = options.asset, options.folder, options.max_triangles

    report_progress(0.0, "Reading mesh")
    kind = asset.suffix.lower()
    if kind == ".obj":
        obj = read_obj(asset, limit)
        save_model(folder, asset, obj.mesh, obj.skeleton, None, obj.notes)
    elif kind == ".fbx":
        scan_fbx(asset, limit)
        become_blender(["read", str(asset), str(folder), str(limit)])
    elif kind in (".glb", ".vrm"):
        check_references(read_json(asset))
        if uses_draco(asset):
            become_blender(["read", str(asset), str(folder), str(limit)])
        glb = read_glb_file(asset, limit)
        save_model(folder, asset, glb.mesh, glb.skeleton, glb.skin, glb.notes)
    else:
        raise Refusal("INVALID_FILE_FORMAT", "Supported formats: .obj, .fbx, .glb, .vrm")
    report_progress(1.0, "Mesh read")


if __name__ == "__main__":
    run_program(main)
