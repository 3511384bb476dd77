"""Generates the Python messages and gRPC stubs from protos/unirig into protos/gen.

Runs as the build hook of every install and by hand (`make protos`), so the generated code is always
current and never committed.
"""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent


def generate() -> None:
    """Writes protos/gen/unirig/v1/*_pb2.py, *_pb2_grpc.py and their type stubs."""
    from grpc_tools import _proto, protoc

    out = HERE / "gen"
    out.mkdir(exist_ok=True)
    sources = [str(path) for path in sorted((HERE / "unirig").rglob("*.proto"))]
    status = protoc.main(
        [
            "protoc",
            f"-I{HERE}",
            f"-I{Path(_proto.__path__[0])}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out={out}",
            f"--mypy_grpc_out={out}",
            *sources,
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc exited with status {status}")
    for folder in (out / "unirig", out / "unirig" / "v1"):
        (folder / "__init__.py").touch()
        (folder / "py.typed").touch()


class GenerateProtos(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate()


if __name__ == "__main__":
    generate()
    sys.exit(0)
