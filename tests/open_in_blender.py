"""What Blender sees in an FBX, by each of its two importers:

python -m tests.open_in_blender FBX OUT_JSON

Points are as we have them: +Y up, metres.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import bpy
from io_scene_fbx import parse_fbx

IMPORTERS = {
    "import_scene.fbx": lambda path: bpy.ops.import_scene.fbx(filepath=path),
    "wm.fbx_import": lambda path: bpy.ops.wm.fbx_import(filepath=path),
}


def main(path: str, out: str) -> None:
    seen: dict[str, Any] = {"records": records(path)}
    for name, open_file in IMPORTERS.items():
        bpy.ops.wm.read_factory_settings(use_empty=True)
        open_file(path)
        seen[name] = {
            "objects": {item.name: described(item) for item in bpy.data.objects},
            "bones": {
                bone.name: [bone.parent and bone.parent.name, y_up(armature, bone.head_local)]
                for armature in objects("ARMATURE")
                for bone in armature.data.bones
            },
            "meshes": {item.name: skinned_mesh(item) for item in objects("MESH")},
            "images": [
                image.packed_file.data.hex() for image in bpy.data.images if image.packed_file
            ],
        }
    Path(out).write_text(json.dumps(seen))


def objects(kind: str) -> list[Any]:
    return [item for item in bpy.data.objects if item.type == kind]


def y_up(item: Any, point: Any) -> list[float]:
    x, y, z = item.matrix_world @ point
    return [x, z, -y]


def described(item: Any) -> dict[str, Any]:
    _, rotation, scale = item.matrix_world.decompose()
    parent = item.parent and item.parent.name
    return {
        "type": item.type,
        "parent": parent,
        "scale": list(scale),
        "turned": rotation.angle,
        "follows": [modifier.object.name for modifier in item.modifiers],
    }


def skinned_mesh(item: Any) -> dict[str, Any]:
    names = {group.index: group.name for group in item.vertex_groups}
    return {
        "vertices": [y_up(item, vertex.co) for vertex in item.data.vertices],
        "weights": [
            {names[entry.group]: entry.weight for entry in vertex.groups}
            for vertex in item.data.vertices
        ],
        "faces": len(item.data.polygons),
        "uvs": [layer.name for layer in item.data.uv_layers],
        "materials": {
            slot.material.name: base_colour(slot.material) for slot in item.material_slots
        },
    }


def base_colour(material: Any) -> str | None:
    """The name of the image behind it."""
    links = material.node_tree.nodes["Principled BSDF"].inputs["Base Color"].links
    return links[0].from_node.image.name if links else None


def records(path: str) -> dict[str, Any]:
    """What stands in the file itself: its settings, and the kinds of its objects."""
    root, version = parse_fbx.parse(path)
    top = {element.id: element for element in root.elems if element}
    (properties,) = [e for e in top[b"GlobalSettings"].elems if e and e.id == b"Properties70"]
    poses = [e for e in top[b"Objects"].elems if e and e.id == b"Pose"]
    return {
        "version": version,
        "settings": {
            entry.props[0].decode(): entry.props[4]
            for entry in properties.elems
            if entry and len(entry.props) == 5 and not isinstance(entry.props[4], bytes)
        },
        "kinds": [
            [element.id.decode(), element.props[2].decode()]
            for element in top[b"Objects"].elems
            if element
        ],
        "posed": [sum(e.id == b"PoseNode" for e in pose.elems if e) for pose in poses],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # Blender may crash while it tears itself down, when all files are written
