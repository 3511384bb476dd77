"""VRM 1.0: a GLB that says which joint is which part of a human body.

Source: VRMC_vrm 1.0 specification, "humanoid" and "meta" (github.com/vrm-c/vrm-specification).
"""

from typing import Any

from services.inference.formats.gltf import Document, Json
from services.inference.formats.program_output import invalid_mesh
from services.inference.formats.rigged_glb import Attached
from services.inference.geometry import Skeleton

_CENTRE = ("hips", "spine", "chest", "upperChest", "neck", "head", "jaw", "leftEye", "rightEye")
_LIMBS = (
    *("Shoulder", "UpperArm", "LowerArm", "Hand", "UpperLeg", "LowerLeg", "Foot", "Toes"),
    *(f"Thumb{part}" for part in ("Metacarpal", "Proximal", "Distal")),
    *(
        f"{finger}{part}"
        for finger in ("Index", "Middle", "Ring", "Little")
        for part in ("Proximal", "Intermediate", "Distal")
    ),
)
HUMAN_BONES = (*_CENTRE, *(f"{side}{limb}" for side in ("left", "right") for limb in _LIMBS))
REQUIRED_BONES = (
    *("hips", "spine", "head"),
    *(
        f"{side}{limb}"
        for side in ("left", "right")
        for limb in ("UpperArm", "LowerArm", "Hand", "UpperLeg", "LowerLeg", "Foot")
    ),
)
# A bone that must not be there without another (specification, "Humanoid bones").
_NEEDS = {
    "upperChest": "chest",
    **{
        f"{side}Thumb{part}": f"{side}Thumb{before}"
        for side in ("left", "right")
        for part, before in (("Proximal", "Metacarpal"), ("Distal", "Proximal"))
    },
    **{
        f"{side}{finger}{part}": f"{side}{finger}{before}"
        for side in ("left", "right")
        for finger in ("Index", "Middle", "Ring", "Little")
        for part, before in (("Intermediate", "Proximal"), ("Distal", "Intermediate"))
    },
}
_LICENSE = "https://vrm.dev/licenses/1.0/"
_NEUTRAL_META: Json = {"name": "Rigged model", "authors": ["Unknown"], "licenseUrl": _LICENSE}
_VRM0_PERMISSIONS = {
    "OnlyAuthor": "onlyAuthor",
    "ExplicitlyLicensedPerson": "onlySeparatelyLicensedPerson",
    "Everyone": "everyone",
}


def human_bones(skeleton: Skeleton) -> dict[str, int]:
    """VRM bone name -> joint, for joints named after it: left_upper_arm or leftUpperArm alike."""
    bone_of = {bone.lower(): bone for bone in HUMAN_BONES}
    found: dict[str, int] = {}
    for joint, name in enumerate(skeleton.names):
        bone = bone_of.get(name.replace("_", "").replace(" ", "").lower())
        if bone is not None:
            found.setdefault(bone, joint)
    for bone, needed in _NEEDS.items():
        if bone in found and needed not in found:
            del found[bone]
    return found


def required_bones(skeleton: Skeleton) -> None:
    """Raises Refusal (INVALID_MESH) where the skeleton is not that of a human body."""
    missing = [bone for bone in REQUIRED_BONES if bone not in human_bones(skeleton)]
    if missing:
        raise invalid_mesh(f"VRM needs a humanoid skeleton: missing {', '.join(missing)}.")


def vrm_extension(document: Document) -> Json:
    """The VRM 1.0 or 0.x extension of a document, {} for a plain GLB."""
    extensions = document.json.get("extensions", {})
    found = extensions.get("VRMC_vrm") or extensions.get("VRM") or {}
    return found if isinstance(found, dict) else {}


def add_humanoid(
    document: Document, skeleton: Skeleton, attached: Attached, original: Json
) -> None:
    """Makes a rigged document a VRM 1.0, with the meta and the expressions of the original."""
    required_bones(skeleton)
    vrm1 = "specVersion" in original
    extension: Json = {
        "specVersion": "1.0",
        "meta": original["meta"] if vrm1 else _meta_of_vrm0(document, original.get("meta") or {}),
        "humanoid": {
            "humanBones": {
                bone: {"node": attached.joints[joint]}
                for bone, joint in human_bones(skeleton).items()
            }
        },
    }
    if vrm1:
        extension |= _parts_that_stay(original, attached.nodes)
    document.json.setdefault("extensions", {})["VRMC_vrm"] = extension
    used = document.json.setdefault("extensionsUsed", [])
    used.append("VRMC_vrm")


def _meta_of_vrm0(document: Document, meta: Json) -> Json:
    """VRM 0.x meta in the terms of VRM 1.0; neutral where it says nothing."""
    author = meta.get("author")
    converted = {
        "name": str(meta.get("title") or _NEUTRAL_META["name"]),
        "authors": [str(author)] if author else _NEUTRAL_META["authors"],
        "licenseUrl": _LICENSE,
    }
    if meta.get("version"):
        converted["version"] = str(meta["version"])
    if meta.get("contactInformation"):
        converted["contactInformation"] = str(meta["contactInformation"])
    if meta.get("reference"):
        converted["references"] = [str(meta["reference"])]
    if meta.get("otherLicenseUrl"):
        converted["otherLicenseUrl"] = str(meta["otherLicenseUrl"])
    permission = _VRM0_PERMISSIONS.get(str(meta.get("allowedUserName")))
    if permission:
        converted["avatarPermission"] = permission
    texture = meta.get("texture")
    textures = document.json.get("textures", [])
    if isinstance(texture, int) and 0 <= texture < len(textures) and "source" in textures[texture]:
        converted["thumbnailImage"] = textures[texture]["source"]
    return converted


def _parts_that_stay(original: Json, nodes: dict[int, int]) -> dict[str, Any]:
    """Expressions and first-person marks, on the nodes as they are numbered now."""
    parts: dict[str, Any] = {}
    if "expressions" in original:
        parts["expressions"] = original["expressions"]
        for group in original["expressions"].values():
            for expression in group.values():
                _renumber(expression, "morphTargetBinds", nodes)
    if "firstPerson" in original:
        parts["firstPerson"] = original["firstPerson"]
        _renumber(parts["firstPerson"], "meshAnnotations", nodes)
    return parts


def _renumber(holder: Json, key: str, nodes: dict[int, int]) -> None:
    if key in holder:
        staying = [bind for bind in holder[key] if bind["node"] in nodes]
        holder[key] = [{**bind, "node": nodes[bind["node"]]} for bind in staying]
