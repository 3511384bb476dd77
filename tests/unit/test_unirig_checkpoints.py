"""Official checkpoints are read as data, converted strictly, and loaded checked."""

import contextlib
import io
import json
import os
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from services.inference.unirig_network import convert
from services.inference.unirig_network.checkpoint_archive import read_state_dict
from services.inference.unirig_network.checkpoint_conversion import convert_checkpoint
from services.inference.unirig_network.checkpoint_errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMissingError,
)
from services.inference.unirig_network.checkpoint_format import file_sha256
from services.inference.unirig_network.checkpoint_kinds import Kind
from services.inference.unirig_network.checkpoint_loading import load_checkpoint, load_state
from services.inference.unirig_network.checkpoint_pickle import read_pickle
from services.inference.unirig_network.expected_state import expected_state
from tests.unirig_checkpoints import (
    EMBEDDING,
    HEAD,
    lightning_checkpoint,
    on_meta,
    small_weights,
    write_lightning_checkpoint,
)

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
WEIGHTS = small_weights()
EXPECTED = on_meta(WEIGHTS)


def convert_small(source: Path, target: Path) -> Path:
    convert_checkpoint(source, "skeleton", target, EXPECTED)
    return target


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_lightning_checkpoint(tmp_path / "model.ckpt", WEIGHTS)


@pytest.fixture
def converted(source: Path, tmp_path: Path) -> Path:
    return convert_small(source, tmp_path / "models" / "skeleton.safetensors")


def write_archive(path: Path, entries: dict[str, bytes]) -> Path:
    """A zip archive of these entries, stored and aligned to 64 bytes as PyTorch does it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(aligned_entry(archive, name), content)
    return path


def aligned_entry(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    assert archive.fp is not None
    entry = zipfile.ZipInfo(name)
    padding = -(archive.fp.tell() + 30 + len(name) + 4) % 64
    entry.extra = struct.pack("<HH", 0x4246, padding) + bytes(padding)
    return entry


def entries_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_checkpoint_comes_back_as_it_was_saved(converted: Path) -> None:
    state = load_state(converted, EXPECTED)
    assert state.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


def test_the_tied_layer_is_stored_under_both_names(converted: Path) -> None:
    state = load_file(converted)
    assert torch.equal(state[HEAD], state[EMBEDDING])


def test_two_views_of_one_storage_are_converted(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    weights = {"whole": whole, "transposed": whole.T, "slice": whole[:, 1:3]}
    source = write_lightning_checkpoint(tmp_path / "model.ckpt", weights)
    target = tmp_path / "out.safetensors"
    convert_checkpoint(source, "skin", target, on_meta(weights))
    for name, tensor in load_state(target, on_meta(weights)).items():
        assert torch.equal(tensor, weights[name])


def test_a_tied_layer_that_is_not_tied_is_refused(tmp_path: Path) -> None:
    untied = WEIGHTS | {HEAD: WEIGHTS[HEAD] + 1}
    source = write_lightning_checkpoint(tmp_path / "model.ckpt", untied)
    with pytest.raises(CheckpointCorruptError, match=f"{HEAD} differs from {EMBEDDING}"):
        convert_small(source, tmp_path / "out.safetensors")


def test_the_metadata_tells_kind_version_and_source(source: Path, converted: Path) -> None:
    with safe_open(converted, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["kind"] == "skeleton"
    assert metadata["format_version"] == "1"
    assert metadata["source_sha256"] == file_sha256(source)


def test_classes_that_are_not_installed_do_not_matter(tmp_path: Path) -> None:
    box = types.ModuleType("a_box_that_is_not_installed")
    exec("class Box(dict):\n    '''Settings by attribute.'''", box.__dict__)
    sys.modules[box.__name__] = box
    try:
        parameters = box.Box(model=box.Box(width=4), sizes=[1, 2], names={"a"})
        parameters.frozen = True
        source = write_lightning_checkpoint(tmp_path / "model.ckpt", WEIGHTS, parameters)
    finally:
        del sys.modules[box.__name__]
    with pytest.raises(pickle.UnpicklingError):
        torch.load(source, weights_only=True)
    load_state(convert_small(source, tmp_path / "out.safetensors"), EXPECTED)


def test_optimizer_states_are_never_read(source: Path, tmp_path: Path) -> None:
    whole = source.read_bytes()
    moment = (WEIGHTS["encoder.weight"] + 2).numpy().tobytes()
    assert whole.count(moment) == 1
    source.write_bytes(whole.replace(moment, bytes(len(moment))))
    load_state(convert_small(source, tmp_path / "out.safetensors"), EXPECTED)


def test_parameters_and_slices_are_read_too(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    state = {
        "transposed": whole.T,
        "column": whole[:, 2],
        "parameter": torch.nn.Parameter(whole.clone()),
        "half": whole.half(),
        "brain": whole.bfloat16(),
        "empty": torch.empty(0, 3),
    }
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state}, path)
    found = read_state_dict(path)
    for name, tensor in state.items():
        torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=0)


def test_a_newer_pickle_protocol_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        torch.save(lightning_checkpoint(WEIGHTS), path, pickle_protocol=protocol)
        assert len(read_state_dict(path)) == len(WEIGHTS)


def test_a_mismatch_is_reported_with_names_shapes_and_counts(tmp_path: Path) -> None:
    wrong = {name: tensor for name, tensor in WEIGHTS.items() if name != "encoder.weight"}
    wrong["norm.running_mean"] = torch.zeros(5)
    wrong["norm.num_batches_tracked"] = torch.tensor(1, dtype=torch.int32)
    wrong |= {f"extra.{index}": torch.zeros(1) for index in range(25)}
    source = write_lightning_checkpoint(tmp_path / "model.ckpt", wrong)
    with pytest.raises(CheckpointCorruptError) as caught:
        convert_small(source, tmp_path / "out.safetensors")
    report = str(caught.value)
    assert "model.ckpt is not the skeleton model's checkpoint" in report
    assert "1 missing:\n  encoder.weight (4, 4) float32\n" in report
    assert "25 unexpected:\n  extra.0 (1,) float32\n" in report
    assert "extra.19 " in report
    assert "extra.20 " not in report
    assert "  … and 5 more\n" in report
    assert "2 of another shape or type:" in report
    assert "norm.running_mean is (5,) float32 but should be (4,) float32" in report
    assert "norm.num_batches_tracked is () int32 but should be () int64" in report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ckpt"]


def test_names_without_the_prefix_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": WEIGHTS}, path)
    with pytest.raises(CheckpointCorruptError, match=r"5 names do not start with 'model\.'"):
        convert_small(path, tmp_path / "out.safetensors")


def test_a_failed_conversion_leaves_the_old_file(
    source: Path, converted: Path, tmp_path: Path
) -> None:
    before = converted.read_bytes()
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        convert_small(source, converted)
    assert converted.read_bytes() == before
    assert [path.name for path in converted.parent.iterdir()] == ["skeleton.safetensors"]


def test_a_converted_file_can_be_read_by_another_user(converted: Path) -> None:
    assert converted.stat().st_mode & 0o777 == 0o644


def test_a_place_that_cannot_be_written_is_named(source: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write"):
        convert_small(source, source / "out.safetensors")


def test_the_command_reports_a_mismatch_and_fails(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        convert.main([str(source), "skin", str(tmp_path / "out.safetensors")])
    assert "1156 missing:" in str(caught.value)
    assert "5 unexpected:" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "listed"),
    [("skeleton", "unirig_ar_state_dict.json"), ("skin", "unirig_skin_state_dict.json")],
)
def test_the_expected_names_and_shapes_are_the_official_ones(kind: Kind, listed: str) -> None:
    path = GOLDEN / listed
    if not path.is_file():
        pytest.skip(f"the official names are not beside the checkout ({path})")
    official = {
        name.removeprefix("model."): tuple(shape)
        for name, shape in json.loads(path.read_text()).items()
    }
    expected = expected_state(kind)
    assert {name: tuple(tensor.shape) for name, tensor in expected.items()} == official
    counters = {name for name, t in expected.items() if t.dtype == torch.int64}
    assert counters == {name for name in official if name.endswith("num_batches_tracked")}


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """As a user without rights; the tests themselves may run as root, who has all of them."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_checkpoint_that_may_not_be_read_names_the_user(converted: Path) -> None:
    converted.chmod(0)
    with as_nobody(), pytest.raises(CheckpointCorruptError, match="may not read it") as caught:
        load_state(converted, EXPECTED)
    assert f"chmod -R a+rX {converted.parent}" in str(caught.value)


def test_a_missing_checkpoint_names_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissingError) as caught:
        load_state(tmp_path / "skin.safetensors", EXPECTED)
    assert "unirig fetch-models" in str(caught.value)
    assert "python -m services.inference.unirig_network.fetch" in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_corrupt(converted: Path, share: float) -> None:
    whole = converted.read_bytes()
    converted.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointCorruptError, match="cannot be used"):
        load_state(converted, EXPECTED)


def test_a_single_wrong_bit_is_found(converted: Path) -> None:
    whole = bytearray(converted.read_bytes())
    whole[-3] ^= 0x10
    converted.write_bytes(whole)
    with pytest.raises(CheckpointCorruptError, match="its checksum is wrong"):
        load_state(converted, EXPECTED)


def test_another_models_checkpoint_is_corrupt(converted: Path) -> None:
    expected = EXPECTED | {"norm.running_mean": torch.zeros(9, device="meta")}
    with pytest.raises(CheckpointCorruptError, match=r"is \(4,\) float32 but should be \(9,\)"):
        load_state(converted, expected)


def test_a_file_that_was_not_converted_here_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "skeleton.safetensors"
    save_file({"encoder.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointCorruptError, match="no checkpoint in format 1"):
        load_state(path, EXPECTED)


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointCorruptError):
        load_state(tmp_path, EXPECTED)


def test_the_kind_and_source_are_told(source: Path, converted: Path) -> None:
    metadata = load_checkpoint(converted, EXPECTED).metadata
    assert (metadata.kind, metadata.source_sha256) == ("skeleton", file_sha256(source))


class Command:
    """Pickles to a call of this function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call: tuple[Callable[..., object], tuple[object, ...]] = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_command_in_a_pickle_is_never_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    evil = [
        Command(os.system, f"touch {marker}"),
        Command(eval, f"open({str(marker)!r}, 'w')"),
        Command(io.open, str(marker), "w"),
        Command(os.mkdir, str(marker)),
    ]
    data = pickle.dumps({"state_dict": {}, "hyper_parameters": evil}, protocol)
    assert read_pickle(data)
    assert not marker.exists()
    # The pickle is a working one.
    pickle.loads(pickle.dumps(evil[-1], protocol))
    assert marker.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"(S'touch %s'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch %s'\no.",
        b"cos\nsystem\n(S'touch %s'\ntR.",
        b"\x80\x02cos\nsystem\n(S'touch %s'\nt\x81.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93(S'touch %s'\nt}\x92.",
        b"ctorch._utils\n_rebuild_parameter\n(cos\nsystem\ntR(S'touch %s'\ntR.",
        b"}(S'__reduce__'\ncos\nsystem\nS'__setstate__'\ncos\nsystem\nu(S'touch %s'\ntb.",
    ],
)
def test_no_opcode_calls_anything(tmp_path: Path, opcodes: bytes) -> None:
    marker = tmp_path / "ran"
    read_pickle(opcodes.replace(b"%s", str(marker).encode()))
    assert not marker.exists()


def test_a_state_dict_of_commands_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    evil = {"state_dict": {"model.weight": Command(os.system, f"touch {marker}")}}
    path = tmp_path / "model.ckpt"
    torch.save(evil, path)
    with pytest.raises(CheckpointCorruptError, match=r"'model\.weight' .* is no tensor"):
        read_state_dict(path)
    assert not marker.exists()


def test_nesting_however_deep_ends_well() -> None:
    depth = 200_000
    read_pickle(b"\x80\x02" + b"K\x00" + b"\x85" * depth + b".")
    # As a dictionary's key it crashes Python's own unpickler.
    assert read_pickle(b"\x80\x02}K\x00" + b"\x85" * depth + b"K\x01s.") == {}
    read_pickle(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    read_pickle(b"\x80\x02" + b"cbox\nBox\n" * 1000 + b")\x81" + b".")
    read_pickle(b"\x80\x02cbox\nBox\n" + b"\x85" * depth + b".")


def test_a_large_memo_index_takes_no_memory() -> None:
    assert read_pickle(b"\x80\x02Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no pickle",
        b"\x80\x02}",
        b"\x80\x02.",
        b"\x80\x02t.",
        b"\x80\x02R.",
        b"\x80\x02h\x07.",
        b"\x80\x02K\x01K\x02s.",
        b"\x80\x02K\x01Na.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02ccollections\nOrderedDict\nNR.",
        b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x05\x97.",
        b"\x80\x04NN\x93.",
        b"\x80\x04]]\x93.",
        b"I" + b"9" * 10_000 + b"\n.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tR.",
    ],
)
def test_a_malformed_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointCorruptError, match="the archive's pickle"):
        read_pickle(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_any_bytes_are_read_or_refused(tail: bytes) -> None:
    with contextlib.suppress(CheckpointCorruptError):
        read_pickle(b"\x80\x04" + tail)


TENSOR = (
    b"\x80\x02}X\x0a\x00\x00\x00state_dict}X\x07\x00\x00\x00model.w"
    b"ctorch._utils\n_rebuild_tensor_v2\n"
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%d\ntQ"
    b"%d\n(%d\nt(%d\nt\x89)tRss."
)


def tensor_pickle(elements: int, offset: int, size: int, stride: int) -> bytes:
    """A state_dict with one tensor in storage "0", its numbers as the file might say them."""
    parts = TENSOR.split(b"%d")
    numbers = [b"I%d" % number for number in (elements, offset, size, stride)]
    return b"".join(part + number for part, number in zip(parts, [*numbers, b""], strict=True))


# A state_dict with one tensor in storage "0"; elements, offset, shape and stride are left open.
ONE_TENSOR = (
    b"}S'state_dict'\n}S'model.w'\nctorch._utils\n_rebuild_tensor_v2\n"
    b"((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI%d\ntQI%d\n(I%d\nt(I%d\ntI00\n}tRss."
)


def write_one_tensor(path: Path, *numbers: int) -> Path:
    """An archive whose storage holds 1, 2, 3, 4; the pickle says the numbers of it."""
    storage = struct.pack("<4f", 1, 2, 3, 4)
    return write_archive(path, {"a/data.pkl": ONE_TENSOR % numbers, "a/data/0": storage})


def test_an_archive_made_by_hand_is_read(tmp_path: Path) -> None:
    path = write_one_tensor(tmp_path / "a.ckpt", 4, 1, 3, 1)
    assert read_state_dict(path)["model.w"].tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ((4, 2, 3, 1), "reaches past its storage"),
        ((4, 0, 2, 4), "reaches past its storage"),
        ((4, 10**30, 1, 1), "reaches past its storage"),
        ((4, -1, 1, 1), "pickle is malformed"),
        ((4, 0, -1, 1), "pickle is malformed"),
        ((4, 0, 4, -1), "pickle is malformed"),
        ((400, 0, 4, 1), "another size than the pickle says"),
        ((-4, 0, 4, 1), "another size than the pickle says"),
        ((4, 0, 10**30, 0), "no shape that a tensor can have"),
        ((4, 10**30, 0, 1), "no shape that a tensor can have"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(
    tmp_path: Path, numbers: tuple[int, int, int, int], reason: str
) -> None:
    path = write_one_tensor(tmp_path / "a.ckpt", *numbers)
    with pytest.raises(CheckpointCorruptError, match=reason):
        read_state_dict(path)


def test_a_tensor_that_claims_to_be_huge_takes_no_memory(tmp_path: Path) -> None:
    path = write_one_tensor(tmp_path / "a.ckpt", 4, 0, 10**12, 0)
    with pytest.raises(CheckpointCorruptError, match=r"w \(1000000000000,\) float32"):
        convert_small(path, tmp_path / "out.safetensors")


def test_a_packed_archive_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(50_000_000))
    with pytest.raises(CheckpointCorruptError, match="is packed"):
        read_state_dict(path)


def test_a_huge_directory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(90):
            entry = zipfile.ZipInfo(f"a/data/{index}")
            entry.comment = bytes(60_000)
            archive.writestr(entry, b"")
    with pytest.raises(CheckpointCorruptError, match="directory is too large"):
        read_state_dict(path)


def test_a_huge_pickle_is_not_read(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.ckpt", {"a/data.pkl": b"]" * (17 << 20)})
    with pytest.raises(CheckpointCorruptError, match="pickle is too large"):
        read_state_dict(path)


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    path = write_one_tensor(tmp_path / "a.ckpt", 4, 0, 4, 1)
    whole = path.read_bytes()
    second = whole.rindex(b"PK\x01\x02")
    # The second entry of the directory is led to the first one's data.
    path.write_bytes(whole[: second + 42] + bytes(4) + whole[second + 46 :])
    with pytest.raises(CheckpointCorruptError, match="overlaps"):
        read_state_dict(path)


@pytest.mark.parametrize("offset", [1, 50, 10**6, 2**32 - 2])
def test_a_directory_that_leads_elsewhere_is_refused(tmp_path: Path, offset: int) -> None:
    path = write_one_tensor(tmp_path / "a.ckpt", 4, 0, 4, 1)
    whole = path.read_bytes()
    first = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[: first + 42] + struct.pack("<I", offset) + whole[first + 46 :])
    with pytest.raises(CheckpointCorruptError):
        read_state_dict(path)


def test_an_entry_that_is_twice_there_is_refused(tmp_path: Path) -> None:
    path = write_one_tensor(tmp_path / "a.ckpt", 4, 0, 4, 1)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/data/0", bytes(16))
    with pytest.raises(CheckpointCorruptError, match="twice"):
        read_state_dict(path)


def test_paths_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    names = ["../escaped", "/tmp/escaped", "a/data/../../escaped"]
    entries = {"a/data.pkl": b"}S'state_dict'\n}s."} | dict.fromkeys(names, b"x")
    assert read_state_dict(write_archive(folder / "a.ckpt", entries)) == {}
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "a.ckpt"]


def test_a_storage_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.ckpt", {"a/data.pkl": ONE_TENSOR % (4, 0, 4, 1)})
    with pytest.raises(CheckpointCorruptError, match="lacks storage '0'"):
        read_state_dict(path)


def test_a_storage_out_of_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", ONE_TENSOR % (4, 0, 4, 1) + b" " * 3)
        entry = aligned_entry(archive, "a/data/0")
        entry.extra += bytes(1)
        entry.extra = entry.extra[:2] + struct.pack("<H", len(entry.extra) - 4) + entry.extra[4:]
        archive.writestr(entry, bytes(16))
    with pytest.raises(CheckpointCorruptError, match="not aligned"):
        read_state_dict(path)


def test_a_damaged_tensor_is_found(source: Path) -> None:
    weight = WEIGHTS["encoder.weight"].numpy().tobytes()
    whole = source.read_bytes()
    assert whole.count(weight) == 1
    source.write_bytes(whole.replace(weight, bytes(len(weight))))
    with pytest.raises(CheckpointCorruptError, match="checksum is wrong"):
        read_state_dict(source)


def test_big_endian_numbers_are_refused(source: Path, tmp_path: Path) -> None:
    entries = entries_of(source) | {"model/byteorder": b"big"}
    with pytest.raises(CheckpointCorruptError, match="big-endian"):
        read_state_dict(write_archive(tmp_path / "big.ckpt", entries))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_archive_is_refused(source: Path, share: float) -> None:
    whole = source.read_bytes()
    source.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointCorruptError, match="not a whole PyTorch archive"):
        read_state_dict(source)


def test_an_archive_that_lost_its_middle_is_refused(source: Path) -> None:
    whole = source.read_bytes()
    source.write_bytes(whole[:500] + whole[900:])
    with pytest.raises(CheckpointCorruptError):
        read_state_dict(source)


@pytest.mark.parametrize("content", [{}, {"state_dict": 3}, [1], {"weights": {}}])
def test_an_archive_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(content, path)
    with pytest.raises(CheckpointCorruptError, match="holds no state_dict"):
        read_state_dict(path)


def test_pytorchs_old_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {}}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointCorruptError, match="not a whole PyTorch archive"):
        read_state_dict(path)


def test_a_zip_archive_of_other_things_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", {"readme.txt": b"hello"})
    with pytest.raises(CheckpointCorruptError, match=r"no single data\.pkl"):
        read_state_dict(path)


def test_a_checkpoint_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.ckpt", tmp_path):
        with pytest.raises(CheckpointError, match=f"cannot read {path}"):
            read_state_dict(path)


@pytest.fixture(scope="module")
def whole_archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("archive")
    return write_lightning_checkpoint(folder / "model.ckpt", WEIGHTS).read_bytes()


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage=st.lists(st.tuples(st.floats(0, 0.9999), st.binary(min_size=1, max_size=8))))
def test_a_damaged_archive_is_read_or_refused(
    whole_archive: bytes, tmp_path: Path, damage: list[tuple[float, bytes]]
) -> None:
    damaged = bytearray(whole_archive)
    for share, content in damage:
        place = int(share * len(damaged))
        damaged[place : place + len(content)] = content
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(damaged)
    with contextlib.suppress(CheckpointCorruptError):
        read_state_dict(path)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage=st.lists(st.tuples(st.floats(0, 0.9999), st.binary(min_size=1, max_size=4))))
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_a_damaged_pickle_is_read_or_refused(
    source: Path, tmp_path: Path, damage: list[tuple[float, bytes]]
) -> None:
    entries = entries_of(source)
    damaged = bytearray(entries["model/data.pkl"])
    for share, content in damage:
        place = int(share * len(damaged))
        damaged[place : place + len(content)] = content
    path = write_archive(tmp_path / "damaged.ckpt", entries | {"model/data.pkl": bytes(damaged)})
    with contextlib.suppress(CheckpointCorruptError):
        read_state_dict(path)
