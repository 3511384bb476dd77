"""The steps around UniRig's networks as a program from files to files.

python -m services.inference.unirig_geometry COMMAND
    sample-skeleton MESH_NPZ OUT_NPZ --seed N
    read-skeleton MESH_NPZ SAMPLES_NPZ JOINTS_NPZ OUT_SKELETON_NPZ
    sample-skin MESH_NPZ SKELETON_NPZ OUT_NPZ --seed N
    read-skin MESH_NPZ SKELETON_NPZ SAMPLES_NPZ WEIGHTS_NPZ OUT_WEIGHTS_NPZ

N: 0 to 2^32 - 1. Progress goes to stdout as JSON lines. Bad input ends the program with status 3
after a line with the error as a user should read it.
"""

import json
import sys
from functools import partial
from pathlib import Path

from services.inference.geometric.surface import UnfitInputError
from services.inference.unirig_geometry.program import (
    read_skeleton,
    read_skin,
    sample_skeleton,
    sample_skin,
)

_BAD_INPUT = 3


def main(arguments: list[str]) -> int:
    match arguments:
        case ["sample-skeleton", mesh, out, "--seed", seed]:
            step = partial(sample_skeleton, Path(mesh), Path(out), int(seed))
        case ["read-skeleton", mesh, samples, joints, out]:
            step = partial(read_skeleton, Path(mesh), Path(samples), Path(joints), Path(out))
        case ["sample-skin", mesh, skeleton, out, "--seed", seed]:
            step = partial(sample_skin, Path(mesh), Path(skeleton), Path(out), int(seed))
        case ["read-skin", mesh, skeleton, samples, weights, out]:
            step = partial(
                read_skin, Path(mesh), Path(skeleton), Path(samples), Path(weights), Path(out)
            )
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    try:
        step(_report)
    except UnfitInputError as error:
        _print_line(error=str(error), error_code="INVALID_MESH")
        return _BAD_INPUT
    return 0


def _report(share: float, message: str) -> None:
    _print_line(progress=round(share, 4), message=message)


def _print_line(**values: float | str) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
