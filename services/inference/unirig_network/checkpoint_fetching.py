"""Fills a model folder with `skeleton.safetensors` and `skin.safetensors`.

They come from a web address or a folder, each of which has either the official files, by their
names in the official repository, or files that are converted already, by the names above.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import torch

from services.inference.unirig_network.checkpoint_conversion import convert_checkpoint
from services.inference.unirig_network.checkpoint_download import (
    RemoteFile,
    download,
    find_file,
    open_client,
    shown,
)
from services.inference.unirig_network.checkpoint_errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMissingError,
)
from services.inference.unirig_network.checkpoint_format import (
    CheckpointMetadata,
    checkpoint_path,
    file_sha256,
)
from services.inference.unirig_network.checkpoint_kinds import KINDS, OFFICIAL_FILES, Kind
from services.inference.unirig_network.checkpoint_loading import load_checkpoint, read_metadata
from services.inference.unirig_network.download_progress import DownloadProgress
from services.inference.unirig_network.model_loading import expected_state_of
from services.inference.unirig_network.replaced_file import put_in_place, replacing

_SAFETENSORS = ".safetensors"
# Room that stays free on the model folder's disk.
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class ModelSource:
    """Where checkpoints come from.

    place: a folder, or a web address to which the files' names are appended.
    token: sent to that address as the hub's bearer token.
    sha256: what each fetched file, as it is at the source, must have; hexadecimal.
    """

    place: Path | str
    token: str | None = field(default=None, repr=False)
    sha256: Mapping[Kind, str] = field(default_factory=dict)


def hub_address(endpoint: str, repository: str, revision: str) -> str:
    """The web address of the files in a repository of the hub, or of a mirror of it."""
    return f"{endpoint.rstrip('/')}/{repository}/resolve/{revision}"


def fetch_models(
    folder: Path,
    source: ModelSource,
    expected: Mapping[Kind, Mapping[str, torch.Tensor]],
    progress: DownloadProgress,
) -> None:
    """Fetches each checkpoint that folder lacks or has damaged, checks it and converts it.

    expected: the state dict of each kind's model of the official size, on the meta device; a
    converted checkpoint may say that it is of another. Where both are there, folder need not be
    writable. One process at a time fills a folder; others wait. An interrupted download goes on
    in the next call.

    Raises CheckpointError: nothing at the source, it cannot be reached, the checksum or the
    content is wrong, the disk is too small or cannot be written.
    """
    all_wanted = [
        _Wanted(kind, checkpoint_path(folder, kind), source.sha256.get(kind), expected[kind])
        for kind in KINDS
    ]
    missing = [wanted for wanted in all_wanted if not _is_there(wanted, progress)]
    if not missing:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, progress), open_client(source.token) as client:
            for wanted in missing:
                # Again, as another process may have had the lock.
                if not _is_there(wanted, progress):
                    _fetch(wanted, source.place, client, progress)
    except OSError as error:
        raise CheckpointError(f"cannot fill {folder}: {error}") from error


@dataclass(frozen=True)
class _Wanted:
    """One checkpoint to be had: where it goes, and what it must be.

    sha256: of the file at the source, if that is known beforehand.
    expected: the model's state dict, on the meta device.
    """

    kind: Kind
    target: Path
    sha256: str | None
    expected: Mapping[str, torch.Tensor]

    @property
    def names(self) -> tuple[str, str]:
        """What the file may be called at the source, in order of preference."""
        return self.target.name, OFFICIAL_FILES[self.kind]

    @property
    def size(self) -> int:
        """Bytes of the converted checkpoint, all but its header."""
        return sum(tensor.nbytes for tensor in self.expected.values())


@contextmanager
def _locked(folder: Path, progress: DownloadProgress) -> Iterator[None]:
    with (folder / ".fetch.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note(f"Waiting for another process that fills {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_there(wanted: _Wanted, progress: DownloadProgress) -> bool:
    """Whether the checkpoint is whole and, where a checksum is wanted, made from that file."""
    target = wanted.target
    try:
        metadata = _load_converted(target, wanted)
    except CheckpointMissingError:
        return False
    except CheckpointError as error:
        progress.note(f"Fetching {target} anew: {error}")
        return False
    if not _is_from(metadata, wanted):
        progress.note(f"Fetching {target} anew: it was made from another file")
        return False
    progress.note(f"{target} is there and whole")
    return True


def _load_converted(path: Path, wanted: _Wanted) -> CheckpointMetadata:
    """Loads the converted checkpoint in path to check it; raises as load_checkpoint does."""
    is_official = read_metadata(path).config is None
    expected = wanted.expected if is_official else expected_state_of(path, wanted.kind)
    return load_checkpoint(path, expected).metadata


def _is_from(metadata: CheckpointMetadata, wanted: _Wanted) -> bool:
    """Whether the source that metadata names, or the file as it is, has the wanted checksum."""
    if wanted.sha256 in (None, metadata.source_sha256):
        return True
    return wanted.sha256 == file_sha256(wanted.target)


def _fetch(
    wanted: _Wanted, place: Path | str, client: httpx.Client, progress: DownloadProgress
) -> None:
    target = wanted.target
    for left_behind in target.parent.glob(f".{target.name}-*"):
        left_behind.unlink(missing_ok=True)
    if isinstance(place, Path):
        _take_local(_local_file(place, wanted), wanted, progress)
    else:
        _take_remote(_remote_file(client, place, wanted), wanted, client, progress)
    progress.note(f"Wrote {target}")


def _local_file(place: Path, wanted: _Wanted) -> Path:
    for name in wanted.names:
        if (place / name).is_file():
            return place / name
    raise CheckpointError(f"{place} has neither {' nor '.join(wanted.names)}")


def _remote_file(client: httpx.Client, place: str, wanted: _Wanted) -> RemoteFile:
    for name in wanted.names:
        found = find_file(client, f"{place.rstrip('/')}/{name}")
        if found is not None:
            return found
    raise CheckpointError(f"{shown(place)} has neither {' nor '.join(wanted.names)}")


def _take_local(file: Path, wanted: _Wanted, progress: DownloadProgress) -> None:
    _check_space(wanted.target.parent, wanted.size)
    _check_sha256(file, wanted.sha256, str(file), progress)
    if file.suffix != _SAFETENSORS:
        progress.note(f"Converting {file}")
        convert_checkpoint(file, wanted.kind, wanted.target, wanted.expected)
        return
    with replacing(wanted.target) as temporary:
        shutil.copyfile(file, temporary)
        _load_converted(temporary, wanted)


def _take_remote(
    remote: RemoteFile, wanted: _Wanted, client: httpx.Client, progress: DownloadProgress
) -> None:
    name = shown(remote.url)
    # What the server says guards against accidents; only a value of one's own guards against it.
    if wanted.sha256 and remote.sha256 and wanted.sha256 != remote.sha256:
        raise _wrong_sha256(name, remote.sha256, wanted.sha256)
    is_converted = remote.url.endswith(_SAFETENSORS)
    part = _part(wanted, remote)
    missing = remote.size - (part.stat().st_size if part.exists() else 0)
    _check_space(part.parent, missing + (0 if is_converted else wanted.size))
    progress.note(f"Downloading {name}")
    download(client, remote, part, wanted.kind, progress)
    try:
        _check_sha256(part, wanted.sha256 or remote.sha256, name, progress)
        if is_converted:
            _load_converted(part, wanted)
            put_in_place(part, wanted.target)
        else:
            progress.note(f"Converting {name}")
            convert_checkpoint(part, wanted.kind, wanted.target, wanted.expected)
    except CheckpointCorruptError:
        part.unlink()
        raise
    for used in part.parent.glob(f".{wanted.kind}-*.part"):
        used.unlink(missing_ok=True)


def _part(wanted: _Wanted, remote: RemoteFile) -> Path:
    """The partial file of exactly this version of the remote file."""
    version = remote.sha256 or f"{remote.url} {remote.size} {remote.version}"
    digest = hashlib.sha256(version.encode()).hexdigest()[:16]
    return wanted.target.parent / f".{wanted.kind}-{digest}.part"


def _check_sha256(file: Path, sha256: str | None, name: str, progress: DownloadProgress) -> None:
    if sha256 is None:
        progress.note(f"{name}: no SHA-256 is known to check it against")
        return
    found = file_sha256(file)
    if found != sha256:
        raise _wrong_sha256(name, found, sha256)


def _wrong_sha256(name: str, found: str, wanted: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(f"{name} has the SHA-256 {found}, but it should be {wanted}")


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise CheckpointError(
            f"{folder} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed"
        )
