"""Files that appear whole or not at all, also when the machine fails in between."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary file beside target that takes its place if the block succeeds.

    Raises OSError where the folder or the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        put_in_place(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, target: Path) -> None:
    """Renames temporary, which is in the same folder, to target, once all of it is on the disk."""
    # Temporary files are for their owner alone; who reads the models may be another user.
    temporary.chmod(0o644)
    _sync(temporary)
    temporary.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
