"""Reads a checkpoint as torch.save writes it (a zip archive), without running any of it.

Only the tensors of its state_dict are touched, as views of the mapped file; optimizer states and
whatever else a trainer keeps stay on the disk.
"""

import io
import mmap
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch

from services.inference.unirig_network.checkpoint_errors import (
    CheckpointCorruptError,
    CheckpointError,
)
from services.inference.unirig_network.checkpoint_pickle import (
    Storage,
    StoredTensor,
    read_pickle,
)

# The official archives need less than a tenth of either.
_MAX_DIRECTORY_BYTES = 4 << 20
_MAX_PICKLE_BYTES = 16 << 20

_LOCAL_HEADER_BYTES = 30
_LOCAL_HEADER_MAGIC = b"PK\x03\x04"
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class _Entry:
    """Where an archive entry's bytes lie in the file, start to stop, and their CRC-32."""

    start: int
    stop: int
    crc: int


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the archive's state_dict, by its name in the file.

    The tensors are views of the file, mapped copy-on-write: pages are read when they are used,
    and two names of one storage share it. The map lasts as long as any of them.

    Raises CheckpointError where the file cannot be read, and CheckpointCorruptError where it is no
    such archive, is cut short, is not what it says, or has other things than tensors in its
    state_dict.
    """
    with _open(path) as file:
        entries = _entries(file)
        file.seek(0)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    data = memoryview(mapped)
    spans = _spans(data, entries)
    folder = _top_folder(spans)
    _check_byte_order(data, spans.get(f"{folder}/byteorder"))
    root = read_pickle(_read_small(data, spans[f"{folder}/data.pkl"]))
    state = root.get("state_dict") if isinstance(root, dict) else None
    if not isinstance(state, dict):
        raise CheckpointCorruptError(f"{path.name} holds no state_dict")
    storages: dict[Storage, torch.Tensor] = {}
    tensors = {}
    for name, stored in state.items():
        if not isinstance(name, str) or not isinstance(stored, StoredTensor):
            raise CheckpointCorruptError(f"{name!r} in the state_dict of {path.name} is no tensor")
        storage = stored.storage
        if storage not in storages:
            span = spans.get(f"{folder}/data/{storage.key}")
            storages[storage] = _elements(data, storage, span)
        tensors[name] = _view(storages[storage], stored, name)
    return tensors


class _BoundedFile(io.FileIO):
    """A file that refuses a large read at once, such as a huge directory of a zip archive."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise CheckpointCorruptError("the archive's directory is too large for a checkpoint")
        return super().read(size) or b""


def _open(path: Path) -> _BoundedFile:
    try:
        return _BoundedFile(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def _entries(file: _BoundedFile) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        raise CheckpointCorruptError(f"not a whole PyTorch archive: {error}") from error
    except (struct.error, OSError) as error:
        raise CheckpointCorruptError("not a whole PyTorch archive") from error


def _spans(data: memoryview, entries: list[zipfile.ZipInfo]) -> dict[str, _Entry]:
    """Each entry's bytes, in the order of the file; none may overlap, be packed or be encrypted."""
    spans: dict[str, _Entry] = {}
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = entry.filename
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
            raise CheckpointCorruptError(
                f"{name!r} in the archive is packed; PyTorch packs nothing"
            )
        if name in spans:
            raise CheckpointCorruptError(f"{name!r} is twice in the archive")
        if entry.file_size != entry.compress_size or entry.header_offset < end:
            raise CheckpointCorruptError(f"{name!r} overlaps another entry of the archive")
        start = _data_start(data, entry.header_offset, name)
        end = start + entry.file_size
        if end > len(data):
            raise CheckpointCorruptError(f"{name!r} reaches past the end of the archive")
        spans[name] = _Entry(start, end, entry.CRC)
    return spans


def _data_start(data: memoryview, offset: int, name: str) -> int:
    """Where an entry's bytes start: behind its local header, which names its own length."""
    header = data[offset : offset + _LOCAL_HEADER_BYTES]
    if len(header) < _LOCAL_HEADER_BYTES or header[:4] != _LOCAL_HEADER_MAGIC:
        raise CheckpointCorruptError(f"{name!r} is not where the archive's directory says")
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
    return offset + _LOCAL_HEADER_BYTES + int(name_bytes) + int(extra_bytes)


def _top_folder(spans: dict[str, _Entry]) -> str:
    folders = [
        name.removesuffix("/data.pkl")
        for name in spans
        if name.endswith("/data.pkl") and name.count("/") == 1
    ]
    if len(folders) != 1:
        raise CheckpointCorruptError("not a PyTorch archive: it has no single data.pkl")
    return folders[0]


def _check_byte_order(data: memoryview, span: _Entry | None) -> None:
    # Older versions of PyTorch wrote no such entry, on little-endian machines.
    if span is not None and _read_small(data, span) != b"little":
        raise CheckpointCorruptError("the archive was written on a big-endian machine")


def _read_small(data: memoryview, span: _Entry) -> bytes:
    if span.stop - span.start > _MAX_PICKLE_BYTES:
        raise CheckpointCorruptError("the archive's pickle is too large for a checkpoint")
    return bytes(_checked(data, span))


def _checked(data: memoryview, span: _Entry) -> memoryview:
    """The entry's bytes, after their checksum."""
    found = data[span.start : span.stop]
    if zlib.crc32(found) != span.crc:
        raise CheckpointCorruptError("the archive is damaged: an entry's checksum is wrong")
    return found


def _elements(data: memoryview, storage: Storage, span: _Entry | None) -> torch.Tensor:
    """The whole storage as a flat tensor (elements,)."""
    if span is None:
        raise CheckpointCorruptError(f"the archive lacks storage {storage.key!r}")
    if span.stop - span.start != storage.elements * storage.dtype.itemsize:
        raise CheckpointCorruptError(
            f"storage {storage.key!r} has another size than the pickle says"
        )
    if span.start % storage.dtype.itemsize:
        raise CheckpointCorruptError(f"storage {storage.key!r} is not aligned as PyTorch aligns it")
    if storage.elements == 0:
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(_checked(data, span), dtype=storage.dtype)


def _view(elements: torch.Tensor, stored: StoredTensor, name: str) -> torch.Tensor:
    last = stored.offset + sum(
        (size - 1) * step for size, step in zip(stored.shape, stored.stride, strict=True)
    )
    if 0 not in stored.shape and last >= elements.numel():
        raise CheckpointCorruptError(f"{name!r} reaches past its storage")
    try:
        return elements.as_strided(stored.shape, stored.stride, stored.offset)
    except (RuntimeError, ValueError, OverflowError, TypeError) as error:
        raise CheckpointCorruptError(f"{name!r} has no shape that a tensor can have") from error
