"""Models that the tests make themselves: a figure in several parts, and rigs for anything."""

from pathlib import Path

import numpy as np

from services.inference.formats.gltf import (
    ARRAY_BUFFER,
    ELEMENT_ARRAY_BUFFER,
    WHITE_PIXEL_PNG,
    Document,
    add_accessor,
    add_view,
    write_glb_document,
)
from services.inference.geometry import Mesh, Skeleton, SkinWeights

BOX_CORNERS = np.array(
    [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32
) * np.float32(0.5)
BOX_QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
BOX_TRIANGLES = np.array([t for a, b, c, d in BOX_QUADS for t in ((a, b, c), (a, c, d))], np.uint32)
HUMAN_JOINTS = {
    "hips": (None, (0.0, 0.9, 0.0)),
    "spine": ("hips", (0.0, 1.0, 0.0)),
    "chest": ("spine", (0.0, 1.2, 0.0)),
    "neck": ("chest", (0.0, 1.45, 0.0)),
    "head": ("neck", (0.0, 1.55, 0.0)),
} | {
    f"{side}_{limb}": (parent if parent in ("hips", "chest") else f"{side}_{parent}", (s * x, y, z))
    for side, s in (("left", 1), ("right", -1))
    for limb, parent, (x, y, z) in (
        ("shoulder", "chest", (0.05, 1.4, 0.0)),
        ("upper_arm", "shoulder", (0.2, 1.4, 0.0)),
        ("lower_arm", "upper_arm", (0.45, 1.4, 0.0)),
        ("hand", "lower_arm", (0.7, 1.4, 0.0)),
        ("upper_leg", "hips", (0.1, 0.85, 0.0)),
        ("lower_leg", "upper_leg", (0.1, 0.45, 0.0)),
        ("foot", "lower_leg", (0.1, 0.08, 0.0)),
        ("toes", "foot", (0.1, 0.02, 0.12)),
    )
}


def box_mesh() -> Mesh:
    """Two boxes above each other, one part each, one metre each side."""
    lower = BOX_CORNERS + np.float32([0, 0.5, 0])
    upper = BOX_CORNERS + np.float32([0, 1.5, 0])
    faces = np.concatenate([BOX_TRIANGLES, BOX_TRIANGLES + 8]).astype(np.int32)
    parts = np.repeat([0, 1], len(BOX_TRIANGLES)).astype(np.int32)
    return Mesh(np.concatenate([lower, upper]), faces, parts, ("lower", "upper"))


def human_skeleton() -> Skeleton:
    names = tuple(HUMAN_JOINTS)
    parents = [-1 if p is None else names.index(p) for p, _ in HUMAN_JOINTS.values()]
    heads = np.array([head for _, head in HUMAN_JOINTS.values()], np.float32)
    return Skeleton(names, np.array(parents, np.int32), heads, _tails(parents, heads))


def chain_skeleton(mesh: Mesh, joints: int = 4) -> Skeleton:
    """Joints up the middle of a mesh, under names that are awkward in every format."""
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    heads = np.repeat([(low + high) / 2], joints, axis=0).astype(np.float32)
    heads[:, 1] = np.linspace(low[1], high[1], joints + 1)[:-1]
    parents = list(range(-1, joints - 1))
    names = ("Root Bone", "Größe %20", "mixamorig:Spine", *(f"b_{j}" for j in range(3, joints)))
    return Skeleton(names[:joints], np.array(parents, np.int32), heads, _tails(parents, heads))


def _tails(parents: list[int], heads: np.ndarray) -> np.ndarray:
    tails = heads.copy()
    for joint in range(len(parents)):
        children = [c for c, parent in enumerate(parents) if parent == joint]
        inward = heads[joint] - heads[parents[joint]]
        tails[joint] = heads[children[0]] if children else heads[joint] + inward * np.float32(0.6)
    return tails


def smooth_weights(mesh: Mesh, skeleton: Skeleton) -> SkinWeights:
    """Each vertex follows its three nearest bones, by distance."""
    middles = (skeleton.heads + skeleton.tails) / 2
    distances = np.linalg.norm(mesh.vertices[:, None] - middles, axis=2)
    joints = np.argsort(distances, axis=1, kind="stable")[:, :3]
    weights = 1.0 / (np.take_along_axis(distances, joints, axis=1) + 0.05)
    weights /= weights.sum(axis=1, keepdims=True)
    return SkinWeights(joints.astype(np.int32), weights.astype(np.float32))


def dense(skin: SkinWeights, joint_count: int) -> np.ndarray:
    """(N, J) weights."""
    table = np.zeros((len(skin.joints), joint_count))
    np.add.at(table, (np.arange(len(table))[:, None], skin.joints), skin.weights)
    return table


def figure_document() -> Document:
    """What real files are made of: transforms, instances, a mirror, a texture, a morph, a camera.

    body is shown by two nodes; the second is mirrored. A camera hangs on the first.
    """
    document = Document({"asset": {"version": "2.0"}}, [])
    uv = np.clip(BOX_CORNERS[:, :2] + 0.5, 0, 1).astype(np.float32)
    normals = (BOX_CORNERS / np.linalg.norm(BOX_CORNERS, axis=1, keepdims=True)).astype(np.float32)
    colours = np.linspace(0, 1, 32, dtype=np.float32).reshape(8, 4)
    morph = np.zeros((8, 3), np.float32)
    morph[BOX_CORNERS[:, 1] > 0, 1] = 0.2
    primitive = {
        "attributes": {
            "POSITION": add_accessor(document, BOX_CORNERS, target=ARRAY_BUFFER, bounds=True),
            "NORMAL": add_accessor(document, normals, target=ARRAY_BUFFER),
            "TEXCOORD_0": add_accessor(document, uv, target=ARRAY_BUFFER),
            "COLOR_0": add_accessor(document, colours, target=ARRAY_BUFFER),
        },
        "indices": add_accessor(document, BOX_TRIANGLES.ravel(), target=ELEMENT_ARRAY_BUFFER),
        "material": 0,
        "targets": [{"POSITION": add_accessor(document, morph, target=ARRAY_BUFFER, bounds=True)}],
    }
    image = add_view(document, WHITE_PIXEL_PNG)
    document.json |= {
        "extensionsUsed": ["KHR_materials_unlit"],
        "meshes": [{"name": "body", "primitives": [primitive], "weights": [0.0]}],
        "materials": [
            {
                "name": "skin",
                "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}},
                "extensions": {"KHR_materials_unlit": {}},
            }
        ],
        "textures": [{"source": 0}],
        "images": [{"name": "skin", "bufferView": image, "mimeType": "image/png"}],
        "cameras": [{"type": "perspective", "perspective": {"yfov": 1.0, "znear": 0.1}}],
        "nodes": [
            {"name": "group", "children": [1, 2], "translation": [0, 2, 0], "scale": [2, 2, 2]},
            {"name": "first", "mesh": 0, "children": [3], "rotation": [0, 0, 0.6, 0.8]},
            {"name": "second", "mesh": 0, "translation": [2, 0, 0], "scale": [-1, 1, 1]},
            {"name": "eye", "camera": 0, "translation": [0, 0, 5]},
        ],
        "scenes": [{"nodes": [0]}],
        "scene": 0,
    }
    return document


def write_figure(path: Path) -> Path:
    write_glb_document(path, figure_document())
    return path


def box_obj() -> bytes:
    """Two objects of quads with UVs, a material, and one face by indices from the end."""
    lines = ["# made by hand", "mtllib boxes.mtl"]
    for number, name in enumerate(("lower", "upper")):
        lines += [f"o {name}", *(f"v {x} {y + number + 0.5} {z}" for x, y, z in BOX_CORNERS)]
        lines += [*("vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"), "usemtl paint"]
        first = 8 * number + 1
        for quad in BOX_QUADS[:-1]:
            lines.append(
                "f " + " ".join(f"{first + v}/{4 * number + c + 1}" for c, v in enumerate(quad))
            )
        lines.append("f " + " ".join(f"{v - 8}/{c - 4}" for c, v in enumerate(BOX_QUADS[-1])))
    return ("\n".join(lines) + "\n").encode()


def ascii_fbx(picture: str) -> str:
    """A tetrahedron of 1 x 2 x 3 m, whose material has its picture at a path or address."""
    return _ASCII_FBX.format(picture=picture)


_ASCII_FBX = """; FBX 7.4.0 project file
FBXHeaderExtension:  {{
    FBXHeaderVersion: 1003
    FBXVersion: 7400
}}
GlobalSettings:  {{
    Version: 1000
    Properties70:  {{
        P: "UpAxis", "int", "Integer", "",1
        P: "UpAxisSign", "int", "Integer", "",1
        P: "FrontAxis", "int", "Integer", "",2
        P: "FrontAxisSign", "int", "Integer", "",1
        P: "CoordAxis", "int", "Integer", "",0
        P: "CoordAxisSign", "int", "Integer", "",1
        P: "UnitScaleFactor", "double", "Number", "",100
    }}
}}
Objects:  {{
    Geometry: 1, "Geometry::body", "Mesh" {{
        Vertices: *12 {{
            a: 0,0,0,1,0,0,0,2,0,0,0,3
        }}
        PolygonVertexIndex: *12 {{
            a: 0,2,-2,0,1,-4,0,3,-3,1,2,-4
        }}
        GeometryVersion: 124
        LayerElementUV: 0 {{
            Version: 101
            Name: "UVMap"
            MappingInformationType: "ByPolygonVertex"
            ReferenceInformationType: "Direct"
            UV: *24 {{
                a: 0,0,1,0,1,1,0,0,1,0,1,1,0,0,1,0,1,1,0,0,1,0,1,1
            }}
        }}
        Layer: 0 {{
            Version: 100
            LayerElement:  {{
                Type: "LayerElementUV"
                TypedIndex: 0
            }}
        }}
    }}
    Model: 2, "Model::body", "Mesh" {{
        Version: 232
    }}
    Material: 3, "Material::paint", "" {{
        Version: 102
        ShadingModel: "phong"
    }}
    Texture: 4, "Texture::picture", "" {{
        Type: "TextureVideoClip"
        Version: 202
        TextureName: "Texture::picture"
        FileName: "{picture}"
        RelativeFilename: "{picture}"
    }}
}}
Connections:  {{
    C: "OO",2,0
    C: "OO",1,2
    C: "OO",3,2
    C: "OP",4,3, "DiffuseColor"
}}
"""
