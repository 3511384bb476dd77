"""What a user does with a skeleton: opens it in Blender, edits it and exports it, all by default.

python -m tests.edit_in_blender FBX_OR_GLB OUT_FBX_OR_GLB EDITS_JSON

EDITS_JSON: {"renamed": {bone: name}, "moved": {bone: metres, +Y up}, "added": {bone: parent}}, each
part in the names of the file that is opened.
"""

import json
import os
import sys

import bpy
from mathutils import Vector


def main(source: str, out: str, edits: str) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if source.endswith(".fbx"):
        bpy.ops.import_scene.fbx(filepath=source)
    else:
        bpy.ops.import_scene.gltf(filepath=source)
    edit(**json.loads(edits))
    if out.endswith(".fbx"):
        bpy.ops.export_scene.fbx(filepath=out)
    else:
        bpy.ops.export_scene.gltf(filepath=out)


def edit(renamed: dict[str, str], moved: dict[str, list[float]], added: dict[str, str]) -> None:
    (armature,) = [item for item in bpy.data.objects if item.type == "ARMATURE"]
    bpy.context.view_layer.objects.active = armature
    bpy.ops.object.mode_set(mode="EDIT")
    bones = armature.data.edit_bones
    for name, (x, y, z) in moved.items():
        bones[name].head += Vector((x, -z, y))
    for number, (name, parent) in enumerate(added.items()):
        bone = bones.new(name)
        bone.parent = bones[parent]
        bone.head = bones[parent].tail
        bone.tail = bone.head + Vector((0.02 * number, 0.0, 0.1))
    for name, new in renamed.items():
        bones[name].name = new
    bpy.ops.object.mode_set(mode="OBJECT")


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # Blender may crash while it tears itself down, when all files are written
