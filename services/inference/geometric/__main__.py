"""The steps of the geometric engine as a program from files to files.

python -m services.inference.geometric skeleton MESH_NPZ OUT_NPZ
python -m services.inference.geometric skin MESH_NPZ SKELETON_NPZ OUT_NPZ

Progress goes to stdout as JSON lines. Bad input ends the program with status 3 after a line with
the error as a user should read it.
"""

import json
import sys
from functools import partial
from pathlib import Path

from services.inference.checks import check_skeleton, check_weights
from services.inference.geometric.engine import (
    MAX_INFLUENCES,
    predict_skeleton,
    predict_weights,
)
from services.inference.geometric.surface import UnfitInputError
from services.inference.geometry import load_mesh, load_skeleton, save_skeleton, save_weights

_BAD_INPUT = 3


def main(arguments: list[str]) -> int:
    match arguments:
        case ["skeleton", mesh, out]:
            step = partial(_skeleton, Path(mesh), Path(out))
        case ["skin", mesh, skeleton, out]:
            step = partial(_skin, Path(mesh), Path(skeleton), Path(out))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    try:
        step()
    except UnfitInputError as error:
        _print_line(error=str(error), error_code="INVALID_MESH")
        return _BAD_INPUT
    return 0


def _skeleton(mesh_path: Path, out: Path) -> None:
    mesh = load_mesh(mesh_path)
    skeleton = predict_skeleton(mesh, _report)
    check_skeleton(mesh, skeleton)
    save_skeleton(out, skeleton)


def _skin(mesh_path: Path, skeleton_path: Path, out: Path) -> None:
    mesh, skeleton = load_mesh(mesh_path), load_skeleton(skeleton_path)
    skin = predict_weights(mesh, skeleton, _report)
    check_weights(mesh, skeleton, skin, MAX_INFLUENCES)
    save_weights(out, skin)


def _report(share: float, message: str) -> None:
    _print_line(progress=round(share, 4), message=message)


def _print_line(**values: float | str) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
