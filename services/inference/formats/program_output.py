"""What a step says on stdout: progress and refusals as JSON lines (see limited_process)."""

import json
import sys
from collections.abc import Callable


class Refusal(Exception):  # noqa: N818 - an answer to the user, not a fault
    """Input that cannot be used, in words for the user.

    code: an error code of the API, such as INVALID_MESH.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def invalid_mesh(text: str) -> Refusal:
    return Refusal("INVALID_MESH", text)


def report_progress(fraction: float, message: str) -> None:
    print(json.dumps({"progress": round(fraction, 3), "message": message}), flush=True)


def run_program(main: Callable[[], None]) -> None:
    """Runs main; a Refusal becomes an error line and exit status 3."""
    try:
        main()
    except Refusal as refusal:
        if refusal.__cause__ is not None:
            print(repr(refusal.__cause__)[:500], file=sys.stderr)  # for the operator
        # On a line of its own: libraries may have left one unfinished.
        line = json.dumps({"error": refusal.text, "error_code": refusal.code})
        print(f"\n{line}", flush=True)
        sys.exit(3)
