"""`python -m services.inference.unirig_network.parity FOLDER`

Compares everything with outputs of the reference implementation: one line per comparison, with its
largest error and the bound. Exits 1 where an error is past its bound, where a file cannot be read
or compared, and where the folder has no file that is known.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from services.inference.unirig_network import parity_geometry, parity_skeleton, parity_skin
from services.inference.unirig_network.comparison import Comparison
from services.inference.unirig_network.parity_state_dict import (
    skeleton_state_comparisons,
    skin_state_comparisons,
)

_Comparisons = Callable[[Path], Iterator[Comparison]]

# What is compared, by the files' names. A file may serve twice.
_COMPARED: tuple[tuple[str, _Comparisons], ...] = (
    ("unirig_ar_state_dict*.json", skeleton_state_comparisons),
    ("unirig_skin_state_dict*.json", skin_state_comparisons),
    ("tokenizer*.pt", parity_skeleton.tokenizer_comparisons),
    ("data_ar_transform*.pt", parity_skeleton.sequence_comparisons),
    ("ar_*.pt", parity_skeleton.network_comparisons),
    ("spconv_*.pt", parity_skin.convolution_comparisons),
    ("skin_*.pt", parity_skin.network_comparisons),
    ("save_raw_data*.pt", parity_geometry.cleaning_comparisons),
    ("data_ar_transform*.pt", parity_geometry.skeleton_input_comparisons),
    ("data_skin_transform*.pt", parity_geometry.skin_input_comparisons),
    ("reskin*.pt", parity_geometry.vertex_weight_comparisons),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints all comparisons; exits 1 where one does not hold or could not be made."""
    folder: Path = _parser().parse_args(arguments).folder
    known = list(_known_files(folder))
    if not known:
        names = ", ".join(sorted({pattern for pattern, _ in _COMPARED}))
        sys.exit(f"Error: nothing to compare with in {folder}: there is none of {names}")
    print(f"{'comparison':<76} {'error':>9} {'bound':>7}")
    held = [_report(path, compared) for path, compared in known]
    for path in _unknown_files(folder, {path for path, _ in known}):
        print(f"{path.name}: not compared, its name is not known")
    if not all(held):
        sys.exit("Error: past a bound, or not compared; see above")


def _known_files(folder: Path) -> Iterator[tuple[Path, _Comparisons]]:
    for pattern, compared in _COMPARED:
        for path in sorted(folder.glob(pattern)):
            yield path, compared


def _unknown_files(folder: Path, known: set[Path]) -> list[Path]:
    return sorted({*folder.glob("*.pt"), *folder.glob("*.json")} - known)


def _report(path: Path, compared: _Comparisons) -> bool:
    """Prints the comparisons of one file as they come; whether all were made and hold."""
    held = True
    try:
        for comparison in compared(path):
            verdict = "ok" if comparison.holds else "PAST"
            numbers = f"{comparison.largest_error:9.2e} {comparison.bound:7.0e}"
            print(f"{comparison.name:<76} {numbers} {verdict}", flush=True)
            held &= comparison.holds
    # Whatever is wrong with one file, the others are still compared.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        print(f"{path.name}: ERROR {type(error).__name__}: {reason}", flush=True)
        return False
    return held


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.inference.unirig_network.parity",
        description="Compares the networks with outputs of the reference implementation.",
    )
    parser.add_argument("folder", type=Path, help="where the outputs lie, such as ar_small.pt")
    return parser


if __name__ == "__main__":
    main()
