"""The step that writes a result file.

    python -m services.inference.formats.write --mesh MESH.npz --skeleton SKELETON.npz
        [--weights WEIGHTS.npz] [--asset FILE] [--max-triangles N] OUT

OUT ends in .obj, .fbx, .glb or .vrm. --mesh is what the skeleton and the weights were made for, in
rest space as the read step gives it. Without --weights the result carries the skeleton and no
skinning. --asset is the user's original file (.obj, .fbx, .glb, .vrm): with it, its materials,
textures, UVs, colours, normals and hierarchy go into OUT, and a rig it had is replaced; without it
the plain mesh does. An .obj takes no weights.

Progress and refusals are JSON lines on stdout. Where Blender is needed (all .fbx files, and .obj
assets for other formats), this process becomes it.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from services.inference.formats.gltf import Document, read_glb_document, write_glb_document
from services.inference.formats.mesh_checks import DEFAULT_MAX_TRIANGLES
from services.inference.formats.obj import add_skeleton_to_obj, write_obj
from services.inference.formats.program_output import Refusal, report_progress, run_program
from services.inference.formats.read import become_blender, uses_draco
from services.inference.formats.rigged_glb import attach_rig, glb_of_mesh
from services.inference.formats.vrm import add_humanoid, required_bones, vrm_extension
from services.inference.geometry import (
    Mesh,
    Skeleton,
    SkinWeights,
    load_mesh,
    load_skeleton,
    load_weights,
)

GLB_KINDS = (".glb", ".vrm")


def rig_document(
    document: Document,
    out: Path,
    mesh: Mesh,
    skeleton: Skeleton,
    skin: SkinWeights | None,
    max_triangles: int,
) -> None:
    """Puts the rig into the document and writes it: as VRM 1.0 where out ends in .vrm."""
    original = vrm_extension(document)
    if out.suffix.lower() == ".vrm":
        required_bones(skeleton)
    attached = attach_rig(document, mesh, skeleton, skin, max_triangles)
    if out.suffix.lower() == ".vrm":
        add_humanoid(document, skeleton, attached, original)
    write_glb_document(out, document)


def _light_all_materials(document: Document) -> None:
    """FBX has no unlit materials: Blender would leave out their textures."""
    for material in document.list("materials"):
        material.get("extensions", {}).pop("KHR_materials_unlit", None)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes a rigged model.")
    parser.add_argument("--mesh", type=Path, required=True)
    parser.add_argument("--skeleton", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--asset", type=Path)
    parser.add_argument("--max-triangles", type=int, default=DEFAULT_MAX_TRIANGLES)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    asset, out, limit = options.asset, options.out, options.max_triangles

    kind, asset_kind = out.suffix.lower(), asset.suffix.lower() if asset else ""
    report_progress(0.0, f"Writing {kind.lstrip('.').upper()}")
    mesh, skeleton = load_mesh(options.mesh), load_skeleton(options.skeleton)
    skin = load_weights(options.weights) if options.weights else None
    arrays = [str(options.mesh), str(options.skeleton), str(options.weights or "-")]

    if kind == ".obj":
        if asset_kind == ".obj":
            add_skeleton_to_obj(asset.read_bytes(), out, skeleton)
        else:
            write_obj(out, mesh, skeleton)
    elif kind in GLB_KINDS:
        if asset_kind in GLB_KINDS and not uses_draco(asset):
            document = read_glb_document(asset)
        elif asset:
            become_blender(["write-glb", str(asset), *arrays, str(limit), str(out)])
        else:
            document = glb_of_mesh(mesh)
        rig_document(document, out, mesh, skeleton, skin, limit)
    elif kind == ".fbx":
        if asset_kind in GLB_KINDS and not uses_draco(asset):
            # Our own writer finds each vertex's weights exactly; Blender takes them from there.
            folder = Path(tempfile.mkdtemp(dir=out.parent))
            rigged = folder / "rigged.glb"
            numbered = replace(
                skeleton, names=tuple(f"joint_{j}" for j in range(len(skeleton.names)))
            )
            document = read_glb_document(asset)
            _light_all_materials(document)
            rig_document(document, rigged, mesh, numbered, skin, limit)
            become_blender(["write-fbx-of-rigged", str(rigged), *arrays, str(out)])
        become_blender(["write-fbx", str(asset or "-"), *arrays, str(out)])
    else:
        raise Refusal("INVALID_FILE_FORMAT", "Results can be .obj, .fbx, .glb or .vrm.")
    report_progress(1.0, "Written")


if __name__ == "__main__":
    run_program(main)
