"""`python -m services.inference.unirig_network.convert SOURCE skeleton|skin TARGET`"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from services.inference.unirig_network.checkpoint_conversion import convert_checkpoint
from services.inference.unirig_network.checkpoint_errors import CheckpointError
from services.inference.unirig_network.checkpoint_kinds import KINDS
from services.inference.unirig_network.expected_state import expected_state


def main(arguments: Sequence[str] | None = None) -> None:
    """Converts one checkpoint; exits 1 with a clear text on a failure."""
    given = _parser().parse_args(arguments)
    try:
        convert_checkpoint(given.source, given.kind, given.target, expected_state(given.kind))
    except CheckpointError as error:
        sys.exit(f"Error: {error}")
    print(f"Wrote {given.target}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.inference.unirig_network.convert",
        description="Converts an official UniRig checkpoint to safetensors. Runs none of its code.",
    )
    parser.add_argument("source", type=Path, help="the official file, such as model.ckpt")
    parser.add_argument("kind", choices=KINDS, help="which model it belongs to")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    return parser


if __name__ == "__main__":
    main()
