"""What is in an image, and what must not be."""

import json

from tests.images.node import NodeError, podman

USER = "10001:10001"
# What must not be in any image, and what may only be in one.
_BUILD_TOOLS = ("gcc", "cc", "g++", "c++", "clang", "make", "node", "npm")
_ONLY_IN = {"torch": "triton", "bpy": "inference"}


def examined(name: str, image: str) -> str:
    """A line on the service's image; raises NodeError where it has what it must not have."""
    (about,) = json.loads(podman("image", "inspect", image))
    config = about["Config"]
    packages = {
        part["name"].lower(): part["version"]
        for part in json.loads(_once(image, "cat", "/app/sbom.cdx.json"))["components"]
    }
    for package, owner in _ONLY_IN.items():
        if (package in packages) != (name == owner):
            raise NodeError(f"{image}: {package} belongs into {owner}'s image and no other")
    if config["User"] != USER or "org.opencontainers.image.version" not in config["Labels"]:
        raise NodeError(f"{image}: the user is {config['User']}, the labels {config['Labels']}")
    found = _once(
        image, "sh", "-c", f"for c in {' '.join(_BUILD_TOOLS)}; do command -v $c; done; :"
    )
    if found and name != "triton":
        raise NodeError(f"{image} has tools of a build: {found}")
    if _once(image, "sh", "-c", "touch /app/new 2>/dev/null && echo written || :"):
        raise NodeError(f"{image}: its own files can be written")
    return f"{name:<10} {about['Size'] / 1e6:7.0f} MB  {len(packages):3d} Python packages"


def _once(image: str, *command: str) -> str:
    """What a command in the image prints."""
    program, *arguments = command
    options = ("--rm", "--no-healthcheck", "--network=none", f"--entrypoint={program}")
    return podman("run", *options, image, *arguments)
