"""Folders for jobs at work that never outlive them, not even after a crash."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = ".lock"


class Scratch:
    """A worker's own folder below a shared one, held by a lock for as long as the worker lives.

    A folder whose lock is free belongs to a worker that died; the next one to start removes it.
    """

    def __init__(self, shared: Path) -> None:
        shared.mkdir(parents=True, exist_ok=True)
        with _locked(shared):
            _sweep(shared)
            self.folder = Path(tempfile.mkdtemp(prefix="worker-", dir=shared))
            self._lock = os.open(self.folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    @contextmanager
    def attempt(self) -> Iterator[Path]:
        """A new empty folder, removed with all it holds at the end."""
        folder = Path(tempfile.mkdtemp(prefix="job-", dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Removes the worker's folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sweep(shared: Path) -> None:
    for folder in shared.glob("worker-*"):
        if not _is_held(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_held(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
