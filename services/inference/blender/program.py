"""What only Blender can do, as a process of its own: the one module that imports bpy.

    python -m services.inference.blender.program read ASSET OUTDIR MAX_TRIANGLES
    python -m services.inference.blender.program write-fbx ASSET|- MESH SKELETON WEIGHTS|- OUT
    python -m services.inference.blender.program write-fbx-of-rigged GLB MESH SKELETON WEIGHTS|- OUT
    python -m services.inference.blender.program write-glb ASSET MESH SKELETON WEIGHTS|- MAX OUT

formats.read and formats.write become this program; their docstrings say what goes in and out.
Blender's axes are right-handed with +Z up and the model facing -Y; they are converted here, and
only here. Nothing of the asset is executed, and no image outside the asset is kept.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from services.inference.formats.gltf import read_glb_document
from services.inference.formats.joints import joint_tree, says_something, strongest
from services.inference.formats.mesh_checks import checked_mesh, refuse_triangles
from services.inference.formats.program_output import (
    invalid_mesh,
    report_progress,
    run_program,
)
from services.inference.formats.read import save_model
from services.inference.formats.rigged_glb import VERTEX_ATTRIBUTE
from services.inference.formats.transfer import rows, same_vertices, vertex_finder
from services.inference.formats.write import rig_document
from services.inference.geometry import (
    Mesh,
    Skeleton,
    SkinWeights,
    load_mesh,
    load_skeleton,
    load_weights,
)

_LONGEST_BONE_NAME = 63
_SHORTEST_BONE = 2e-6  # metres; Blender deletes bones of 1e-6
_LENGTH_PROPERTY = "bone_length"


def to_blender(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(n, 3) from +Y up, facing +Z, to +Z up, facing -Y."""
    return np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1)


def from_blender(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(n, 3) from +Z up, facing -Y, to +Y up, facing +Z."""
    return np.stack([points[:, 0], points[:, 2], -points[:, 1]], axis=1)


def import_asset(asset: Path) -> None:
    """Opens a file in an empty scene, at rest: no poses, animations, morphs or foreign images."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.preferences.filepaths.use_scripts_auto_execute = False
    kind = asset.suffix.lower()
    try:
        if kind == ".fbx":
            _import_fbx(str(asset))
        elif kind == ".obj":
            bpy.ops.wm.obj_import(filepath=str(asset))
            _drop_drawn_skeleton()
        else:
            _import_glb(asset)
    except RuntimeError as error:
        # Blender's own words name places on this machine; they go to the operator only.
        raise invalid_mesh(
            "The file could not be read: it is damaged or uses something we do not support."
        ) from error
    for image in list(bpy.data.images):
        if image.packed_file is None:
            bpy.data.images.remove(image)
    for data in (*bpy.data.objects, *bpy.data.meshes, *bpy.data.armatures, *bpy.data.shape_keys):
        data.animation_data_clear()
    for armature in bpy.data.armatures:
        armature.pose_position = "REST"
    for item in bpy.data.objects:
        if item.type == "MESH" and item.data.users > 1:
            item.data = item.data.copy()  # weights belong to the mesh, and instances need their own
    for keys in bpy.data.shape_keys:
        for block in keys.key_blocks:
            block.value = 0.0
    bpy.context.view_layer.update()


def _drop_drawn_skeleton() -> None:
    """Removes the lines by which a skeleton OBJ of ours draws its bones: the armature replaces
    them."""
    for item in list(bpy.data.objects):
        if item.name.startswith("skeleton") and item.type == "MESH" and not item.data.polygons:
            bpy.data.objects.remove(item)


def _import_fbx(path: str) -> None:
    try:
        bpy.ops.wm.fbx_import(filepath=path, use_anim=False)
    except RuntimeError:
        bpy.ops.import_scene.fbx(filepath=path, use_anim=False)


def _import_glb(asset: Path) -> None:
    path = asset
    if asset.suffix.lower() == ".vrm":
        path = Path(tempfile.mkdtemp(dir=asset.parent)) / "model.glb"
        shutil.copyfile(asset, path)
    bpy.ops.import_scene.gltf(filepath=str(path), disable_bone_shape=True)


def mesh_objects() -> list[Any]:
    """In an order that is the same each time a file is opened."""
    found = [o for o in bpy.context.scene.objects if o.type == "MESH" and len(o.data.vertices)]
    return sorted(found, key=lambda item: str(item.name))


def armature_objects() -> list[Any]:
    return [o for o in bpy.context.scene.objects if o.type == "ARMATURE"]


def rest_vertices(meshes: Iterable[Any]) -> npt.NDArray[np.float32]:
    """(N, 3) vertices of all objects in rest space, +Y up."""
    blocks = [np.zeros((0, 3))]
    for item in meshes:
        flat = np.empty(len(item.data.vertices) * 3, np.float32)
        item.data.vertices.foreach_get("co", flat)
        world = np.array(item.matrix_world)
        blocks.append(flat.reshape(-1, 3) @ world[:3, :3].T + world[:3, 3])
    return from_blender(np.concatenate(blocks)).astype(np.float32)


def rest_faces(meshes: Iterable[Any]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(F, 3) triangles of all objects as indices of rest_vertices, and (F,) each one's object."""
    faces, parts, first = [np.zeros((0, 3), np.int32)], [np.zeros(0, np.int32)], 0
    for part, item in enumerate(meshes):
        item.data.calc_loop_triangles()
        triangles = np.empty(len(item.data.loop_triangles) * 3, np.int32)
        item.data.loop_triangles.foreach_get("vertices", triangles)
        faces.append(triangles.reshape(-1, 3) + np.int32(first))
        parts.append(np.full(len(triangles) // 3, part, np.int32))
        first += len(item.data.vertices)
    return np.concatenate(faces), np.concatenate(parts)


def _used(faces: npt.NDArray[np.int32], count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(N,) whether a face uses each vertex, and its number among those that are."""
    used = np.zeros(count, bool)
    used[faces] = True
    return used, (np.cumsum(used) - 1).astype(np.int32)


def mesh_numbers(mesh: Mesh, meshes: list[Any]) -> npt.NDArray[np.int64]:
    """(N,) for each vertex of all objects the one of mesh that it is, or that is nearest to it."""
    vertices = rest_vertices(meshes)
    used, place = _used(rest_faces(meshes)[0], len(vertices))
    numbers = np.zeros(len(vertices), np.int64)
    unknown = np.ones(len(vertices), bool)
    if same_vertices(mesh, vertices[used]):
        numbers[used] = place[used]
        unknown = ~used
    if unknown.any():
        numbers[unknown] = vertex_finder(mesh)(vertices[unknown])
    return numbers


def read(asset: Path, folder: Path, max_triangles: int) -> None:
    import_asset(asset)
    report_progress(0.6, "Reading mesh")
    meshes = mesh_objects()
    faces, parts = rest_faces(meshes)
    refuse_triangles(len(faces), max_triangles)
    vertices = rest_vertices(meshes)
    used, place = _used(faces, len(vertices))
    names = tuple(item.name for item in meshes)
    mesh = checked_mesh(vertices[used], place[faces], parts, names)
    skeleton, skin, notes = _read_rig(meshes)
    if skin is not None:
        skin = SkinWeights(skin.joints[used], skin.weights[used])
    save_model(folder, asset, mesh, skeleton, skin, notes)


def _read_rig(meshes: list[Any]) -> tuple[Skeleton | None, SkinWeights | None, list[str]]:
    markers = _end_markers(meshes)
    bones = [
        (armature, bone)
        for armature in armature_objects()
        for bone in armature.data.bones
        if bone.use_deform and (armature.name, bone.name) not in markers
    ]
    if not bones:
        return None, None, []
    number = {(armature.name, bone.name): joint for joint, (armature, bone) in enumerate(bones)}
    parents = [_parent(number, armature, bone) for armature, bone in bones]
    heads = np.array([armature.matrix_world @ bone.head_local for armature, bone in bones])
    tips = np.array([armature.matrix_world @ _tail(armature, bone) for armature, bone in bones])
    names = [bone.name for _, bone in bones]
    skeleton, place, notes = joint_tree(names, parents, from_blender(heads), from_blender(tips))
    joints, weights = _read_weights(meshes, number)
    if not weights.any():
        return skeleton, None, notes
    skin = strongest(place[joints], weights)
    return skeleton, skin if says_something(skin, len(skeleton.names)) else None, notes


def _end_markers(meshes: list[Any]) -> set[tuple[str, str]]:
    """Armature and name of the bones that only mark where another ends.

    Unless told otherwise Blender's FBX exporter hangs one on each last bone, as FBX has no bone
    lengths. A bone that moves something or comes from us is none, whatever its name.
    """
    weighted = {group.name for item in meshes for group in item.vertex_groups}
    markers = set()
    for armature in armature_objects():
        for bone in armature.data.bones:
            below = [child.name for child in bone.children_recursive]
            if below != [f"{bone.name}_end"] or below[0] in weighted:
                continue
            if _LENGTH_PROPERTY not in armature.pose.bones[below[0]]:
                markers.add((armature.name, below[0]))
    return markers


def _tail(armature: Any, bone: Any) -> Any:
    """FBX has no bone lengths, so Blender guesses them; ours are in a property of the pose bone."""
    length = armature.pose.bones[bone.name].get(_LENGTH_PROPERTY)
    if not isinstance(length, float) or not 0 < length < 1e9:
        return bone.tail_local
    return bone.head_local + (bone.tail_local - bone.head_local).normalized() * length


def _parent(number: dict[tuple[str, str], int], armature: Any, bone: Any) -> int:
    while (bone := bone.parent) is not None:
        if (armature.name, bone.name) in number:
            return number[armature.name, bone.name]
    return -1


def _read_weights(
    meshes: list[Any], number: dict[tuple[str, str], int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(N, K) joints and weights of all vertices; a mesh hung on a bone follows it wholly."""
    entries: list[list[tuple[int, float]]] = []
    for item in meshes:
        armature = item.find_armature() or item.parent
        holder = armature.name if armature is not None else ""
        if item.parent is not None and item.parent_type == "BONE":
            joint = number.get((item.parent.name, item.parent_bone))
            whole = [] if joint is None else [(joint, 1.0)]
            entries += [whole] * len(item.data.vertices)
            continue
        joint_of = {g.index: number.get((holder, g.name)) for g in item.vertex_groups}
        for vertex in item.data.vertices:
            found = ((joint_of.get(g.group), g.weight) for g in vertex.groups)
            entries.append([(joint, weight) for joint, weight in found if joint is not None])
    width = max([1, *map(len, entries)])
    joints = np.zeros((len(entries), width), np.int64)
    weights = np.zeros((len(entries), width))
    for vertex, influences in enumerate(entries):
        for column, (joint, weight) in enumerate(influences):
            joints[vertex, column] = joint
            weights[vertex, column] = weight
    return joints, weights


def remove_rig() -> None:
    """Deletes armatures; every mesh stays where it is at rest."""
    armatures = armature_objects()
    for item in list(bpy.context.scene.objects):
        if item.parent in armatures:
            world = item.matrix_world.copy()
            item.parent = None
            item.matrix_world = world
        for modifier in [m for m in item.modifiers if m.type == "ARMATURE"]:
            item.modifiers.remove(modifier)
    for item in armatures:
        bpy.data.objects.remove(item)
    bpy.context.view_layer.update()


def add_mesh(mesh: Mesh) -> None:
    """One object for each part."""
    points = to_blender(mesh.vertices)
    for part, name in enumerate(mesh.part_names):
        used, corners = np.unique(mesh.faces[mesh.parts == part], return_inverse=True)
        if len(used) == 0:
            continue
        data = bpy.data.meshes.new(name)
        data.from_pydata(points[used].tolist(), [], corners.reshape(-1, 3).tolist())
        bpy.context.scene.collection.objects.link(bpy.data.objects.new(name, data))
    bpy.context.view_layer.update()


def add_armature(skeleton: Skeleton) -> tuple[Any, list[str]]:
    """Our skeleton as an armature object, and the names its bones got."""
    data = bpy.data.armatures.new("Armature")
    armature = bpy.data.objects.new("Armature", data)
    bpy.context.scene.collection.objects.link(armature)
    bpy.context.view_layer.objects.active = armature
    bpy.ops.object.mode_set(mode="EDIT")
    heads, tails = to_blender(skeleton.heads), to_blender(skeleton.tails)
    shortest = max(1e-4 * float(np.ptp(np.vstack([heads, tails]), axis=0).max()), _SHORTEST_BONE)
    bones: list[Any] = []
    for joint, name in enumerate(skeleton.names):
        bone = data.edit_bones.new(name[:_LONGEST_BONE_NAME])
        bone.head, bone.tail = heads[joint], tails[joint]
        if bone.length < shortest:
            bone.tail = heads[joint] + (0.0, 0.0, shortest)
        if joint:
            bone.parent = bones[skeleton.parents[joint]]
        bones.append(bone)
    lengths = {bone.name: bone.length for bone in bones}
    bpy.ops.object.mode_set(mode="OBJECT")
    for name, length in lengths.items():
        armature.pose.bones[name][_LENGTH_PROPERTY] = length
    return armature, list(lengths)


def bind(meshes: list[Any], armature: Any, bone_names: list[str], skin: SkinWeights) -> None:
    """Vertex groups and an armature modifier. skin: for the vertices of all objects in turn."""
    first = 0
    for item in meshes:
        count = len(item.data.vertices)
        item.vertex_groups.clear()
        groups = [item.vertex_groups.new(name=name) for name in bone_names]
        rows_joints = skin.joints[first : first + count].tolist()
        rows_weights = skin.weights[first : first + count].tolist()
        for vertex in range(count):
            for joint, weight in zip(rows_joints[vertex], rows_weights[vertex], strict=True):
                if weight > 0:
                    groups[joint].add((vertex,), weight, "REPLACE")
        item.modifiers.new("Armature", "ARMATURE").object = armature
        first += count


def _weights_of_rigged_glb(meshes: list[Any]) -> SkinWeights:
    """The weights the imported file has; its joints are named by their numbers (formats.write)."""
    number = {
        (armature.name, bone.name): int(bone.name.removeprefix("joint_"))
        for armature in armature_objects()
        for bone in armature.data.bones
    }
    return rows(strongest(*_read_weights(meshes, number)), np.arange(len(rest_vertices(meshes))))


def rig_scene(skeleton: Skeleton, skin: SkinWeights | None) -> None:
    """Replaces the rig of the scene. skin: for the vertices of mesh_objects() in turn."""
    meshes = mesh_objects()
    remove_rig()
    armature, bone_names = add_armature(skeleton)
    if skin is not None:
        bind(meshes, armature, bone_names, skin)
    else:
        for item in meshes:
            item.vertex_groups.clear()


def name_images() -> None:
    """Gives each packed image a file name of its own, under which the exporter embeds it."""
    endings = {"PNG": "png", "JPEG": "jpg", "TARGA": "tga", "BMP": "bmp", "TIFF": "tif"}
    for number, image in enumerate(bpy.data.images):
        name = bpy.path.clean_name(Path(image.name).stem)
        ending = endings.get(image.file_format, "png")
        image.filepath_raw = f"//{name}_{number}.{ending}"


def link_base_colours() -> None:
    """Leads each material's picture straight to its base colour.

    The FBX exporter overlooks one behind other nodes, such as a factor or vertex colours.
    """
    for material in bpy.data.materials:
        nodes = material.node_tree.nodes if material.node_tree else []
        for shader in [node for node in nodes if node.type == "BSDF_PRINCIPLED"]:
            picture = _picture_before(shader.inputs["Base Color"])
            if picture is not None:
                material.node_tree.links.new(picture.outputs["Color"], shader.inputs["Base Color"])


def _picture_before(socket: Any) -> Any:
    """The first image node upstream of a socket, None where there is none."""
    seen: set[Any] = set()
    waiting = [link.from_node for link in socket.links]
    while waiting:
        node = waiting.pop(0)
        if node.type == "TEX_IMAGE":
            return node
        if node not in seen:
            seen.add(node)
            waiting += [link.from_node for entry in node.inputs for link in entry.links]
    return None


def export_fbx(out: Path) -> None:
    report_progress(0.6, "Writing FBX")
    name_images()
    link_base_colours()
    bpy.ops.export_scene.fbx(
        filepath=str(out),
        add_leaf_bones=False,
        bake_anim=False,
        path_mode="COPY",
        embed_textures=True,
        use_custom_props=True,
        # Metres in the file itself: no joint or mesh is scaled by 100 in programs that skip units.
        apply_scale_options="FBX_SCALE_UNITS",
    )
    # The exporter notes where each texture would lie on this machine, which is nobody's business.
    # Offsets in the file must not change, so something as long that means "here" takes its place.
    folder = f"{out.resolve().parent}/".encode()
    here = b"./" * (len(folder) // 2) + b"/" * (len(folder) % 2)
    out.write_bytes(out.read_bytes().replace(folder, here))


def export_static_glb(asset: Path, mesh: Mesh, out: Path) -> None:
    """The asset without its rig as a GLB, each vertex with its number in mesh."""
    import_asset(asset)
    meshes = mesh_objects()
    numbers, first = mesh_numbers(mesh, meshes).astype(np.float32), 0
    for item in meshes:
        count = len(item.data.vertices)
        attribute = item.data.attributes.new(VERTEX_ATTRIBUTE, "FLOAT", "POINT")
        attribute.data.foreach_set("value", numbers[first : first + count])
        first += count
    remove_rig()
    bpy.ops.export_scene.gltf(
        filepath=str(out),
        export_format="GLB",
        export_animations=False,
        export_attributes=True,
        export_skins=False,
        export_cameras=True,
        export_lights=True,
    )


def main() -> None:
    match sys.argv[1:]:
        case ["read", asset, folder, limit]:
            read(Path(asset), Path(folder), int(limit))
        case ["write-fbx", asset, *arrays, out]:
            mesh, skeleton, skin = _arrays(*arrays)
            _open(asset, mesh)
            rig_scene(skeleton, skin and rows(skin, mesh_numbers(mesh, mesh_objects())))
            export_fbx(Path(out))
        case ["write-fbx-of-rigged", rigged, *arrays, out]:
            _, skeleton, skin = _arrays(*arrays)
            import_asset(Path(rigged))
            rig_scene(skeleton, skin and _weights_of_rigged_glb(mesh_objects()))
            export_fbx(Path(out))
        case ["write-glb", asset, *arrays, limit, out]:
            static = Path(tempfile.mkdtemp(dir=Path(out).parent)) / "static.glb"
            mesh, skeleton, skin = _arrays(*arrays)
            export_static_glb(Path(asset), mesh, static)
            report_progress(0.6, "Writing GLB")
            document = read_glb_document(static)
            rig_document(document, Path(out), mesh, skeleton, skin, int(limit))
        case _:
            sys.exit(__doc__)
    report_progress(1.0, "Done")


def _open(asset: str, mesh: Mesh) -> None:
    if asset != "-":
        import_asset(Path(asset))
        return
    bpy.ops.wm.read_factory_settings(use_empty=True)
    add_mesh(mesh)


def _arrays(mesh: str, skeleton: str, weights: str) -> tuple[Mesh, Skeleton, SkinWeights | None]:
    skin = None if weights == "-" else load_weights(Path(weights))
    return load_mesh(Path(mesh)), load_skeleton(Path(skeleton)), skin


if __name__ == "__main__":
    run_program(main)
    sys.stdout.flush()
    os._exit(0)  # Blender may crash while it tears itself down, when all files are written
