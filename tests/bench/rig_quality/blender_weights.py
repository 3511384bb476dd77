"""Blender's automatic weights, as a process of its own.

    python -m tests.bench.rig_quality.blender_weights MESH_NPZ SKELETON_NPZ OUT_NPZ

Every part of the mesh is an object, as in its file. Vertices of a part in the same place are united
first and its normals turned outside, as one would by hand: the heat of separate triangles goes
nowhere, and Blender prefers bones behind the surface. OUT_NPZ (geometry.SkinWeights) has a column
for every joint, and a row of zeros for a vertex that is left without weights.
"""

import os
import sys
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from services.inference.blender.program import add_armature, to_blender
from services.inference.geometry import (
    Mesh,
    Skeleton,
    SkinWeights,
    load_mesh,
    load_skeleton,
    save_weights,
)

# Share of the longest side; for a model a metre long, what "Merge by Distance" begins with.
_WELD = 1e-4


def automatic_weights(mesh: Mesh, skeleton: Skeleton) -> SkinWeights:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    pieces = [_add_part(mesh, part) for part in np.unique(mesh.parts)]
    armature, bone_names = add_armature(skeleton)
    for chosen in (*(item for item, _, _ in pieces), armature):
        chosen.select_set(True)
    bpy.context.view_layer.objects.active = armature
    bpy.ops.object.parent_set(type="ARMATURE_AUTO")
    number = {name: joint for joint, name in enumerate(bone_names)}
    weights = np.zeros((len(mesh.vertices), len(bone_names)), np.float32)
    for item, used, place in pieces:
        joint_of = {group.index: number[group.name] for group in item.vertex_groups}
        own = np.zeros((len(item.data.vertices), len(bone_names)), np.float32)
        for vertex in item.data.vertices:
            for entry in vertex.groups:
                own[vertex.index, joint_of[entry.group]] = entry.weight
        weights[used] = own[place]
    total = weights.sum(axis=1, keepdims=True)
    joints = np.broadcast_to(np.arange(len(bone_names), dtype=np.int32), weights.shape)
    return SkinWeights(joints, weights / np.where(total > 0, total, 1))


def _add_part(mesh: Mesh, part: int) -> tuple[Any, npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """A part as an object, its vertices in the mesh, and for each the one of the object it is."""
    used, corners = np.unique(mesh.faces[mesh.parts == part], return_inverse=True)
    cells = np.round(mesh.vertices[used] / (_WELD * mesh.extent)).astype(np.int64)
    _, first, place = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    faces = [face for face in place[corners.reshape(-1, 3)].tolist() if len(set(face)) == 3]
    data = bpy.data.meshes.new(mesh.part_names[part])
    data.from_pydata(to_blender(mesh.vertices[used][first]).tolist(), [], faces)
    item = bpy.data.objects.new(data.name, data)
    bpy.context.scene.collection.objects.link(item)
    _turn_outside(item)
    return item, used, place


def _turn_outside(item: Any) -> None:
    bpy.context.view_layer.objects.active = item
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.mesh.normals_make_consistent(inside=False)
    bpy.ops.object.mode_set(mode="OBJECT")


def main() -> None:
    mesh, skeleton, out = map(Path, sys.argv[1:])
    save_weights(out, automatic_weights(load_mesh(mesh), load_skeleton(skeleton)))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # Blender may crash while it tears itself down, when all files are written
