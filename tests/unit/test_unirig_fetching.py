"""The model folder is filled from the hub, a mirror, a web address or a folder."""

import contextlib
import hashlib
import io
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch
from rich.console import Console

from services.inference.unirig_network import checkpoint_download, fetch
from services.inference.unirig_network.checkpoint_conversion import convert_checkpoint
from services.inference.unirig_network.checkpoint_errors import CheckpointError
from services.inference.unirig_network.checkpoint_fetching import (
    ModelSource,
    fetch_models,
    hub_address,
)
from services.inference.unirig_network.checkpoint_kinds import KINDS, OFFICIAL_FILES, Kind
from services.inference.unirig_network.checkpoint_loading import load_state
from services.inference.unirig_network.download_progress import DownloadProgress
from tests.hub_server import Hub, hub_server
from tests.tiny_unirig import write_tiny_checkpoints
from tests.unirig_checkpoints import on_meta, small_weights, write_lightning_checkpoint

# Large enough to come in several pieces.
WEIGHTS: dict[Kind, dict[str, torch.Tensor]] = {
    "skeleton": small_weights(1) | {"large": torch.randn(300_000)},
    "skin": {"skin.weight": torch.randn(40, 3)},
}
EXPECTED = {kind: on_meta(weights) for kind, weights in WEIGHTS.items()}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the official repository."""
    folder = tmp_path_factory.mktemp("official")
    for kind in KINDS:
        write_lightning_checkpoint(folder / OFFICIAL_FILES[kind], WEIGHTS[kind])
    return folder


@pytest.fixture
def hub(official: Path) -> Iterator[Hub]:
    files = {name: (official / name).read_bytes() for name in OFFICIAL_FILES.values()}
    with hub_server(files) as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def source_of(
    hub: Hub, token: str | None = None, sha256: dict[Kind, str] | None = None
) -> ModelSource:
    return ModelSource(hub_address(hub.url, hub.repository, hub.revision), token, sha256 or {})


def fetched(folder: Path, source: ModelSource) -> str:
    """Fetches into folder; what was shown meanwhile."""
    shown = io.StringIO()
    with DownloadProgress(Console(file=shown)) as progress:
        fetch_models(folder, source, EXPECTED, progress)
    return shown.getvalue()


def check_whole(folder: Path) -> None:
    """Both models are there, as they should be, and nothing else is."""
    for kind in KINDS:
        state = load_state(folder / f"{kind}.safetensors", EXPECTED[kind])
        for name, tensor in WEIGHTS[kind].items():
            assert torch.equal(state[name], tensor)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [".fetch.lock", "skeleton.safetensors", "skin.safetensors"]


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_both_models_come_from_the_hub(hub: Hub, folder: Path) -> None:
    shown = fetched(folder, source_of(hub))
    check_whole(folder)
    assert "skeleton: 4 of 4 MB" in shown
    assert len(hub.downloads) == 2


def test_nothing_is_done_where_both_are_there(hub: Hub, folder: Path) -> None:
    fetched(folder, source_of(hub))
    hub.requests.clear()
    assert fetched(folder, source_of(hub)).count("is there and whole") == 2
    assert hub.requests == []


def test_a_damaged_model_is_fetched_anew(hub: Hub, folder: Path) -> None:
    fetched(folder, source_of(hub))
    damaged = folder / "skin.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    hub.requests.clear()
    assert "Fetching" in fetched(folder, source_of(hub))
    check_whole(folder)
    assert len(hub.downloads) == 1


def test_another_repository_and_revision_can_be_named(hub: Hub, folder: Path) -> None:
    hub.repository, hub.revision = "somebody/else", "refs%2Fpr%2F1"
    fetched(folder, source_of(hub))
    check_whole(folder)


def test_a_cut_connection_is_resumed_where_it_ended(hub: Hub, folder: Path) -> None:
    hub.cuts = [1_000_000, 500_000]
    shown = fetched(folder, source_of(hub))
    check_whole(folder)
    starts = [int(d.range.removeprefix("bytes=")[:-1]) for d in hub.downloads if d.range]
    assert starts == [1_000_000, 1_500_000]
    assert "trying again" in shown


class _Stopping(DownloadProgress):
    """Is interrupted as by Ctrl-C when a million bytes are there."""

    def advance(self, name: str, done: int, total: int) -> None:
        if done > 1_000_000:
            raise KeyboardInterrupt


def stop_early(hub: Hub, folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch_models(folder, source_of(hub), EXPECTED, _Stopping(Console(file=io.StringIO())))


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can grow beyond size bytes meanwhile: a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_interrupted_fetch_is_resumed_by_the_next(hub: Hub, folder: Path) -> None:
    stop_early(hub, folder)
    hub.requests.clear()
    fetched(folder, source_of(hub))
    check_whole(folder)
    assert int(hub.downloads[0].range.removeprefix("bytes=")[:-1]) > 900_000


def test_a_file_that_changed_meanwhile_is_not_mixed(hub: Hub, folder: Path, tmp_path: Path) -> None:
    stop_early(hub, folder)
    newer = write_lightning_checkpoint(tmp_path / "newer.ckpt", WEIGHTS["skeleton"], "newer")
    hub.files[OFFICIAL_FILES["skeleton"]] = newer.read_bytes()
    hub.requests.clear()
    fetched(folder, source_of(hub))
    check_whole(folder)
    assert hub.downloads[0].range == ""


def test_a_server_without_ranges_is_asked_from_the_start(hub: Hub, folder: Path) -> None:
    hub.knows_ranges = False
    hub.cuts = [1_000_000]
    fetched(folder, source_of(hub))
    check_whole(folder)


def test_a_busy_server_is_asked_again(hub: Hub, folder: Path) -> None:
    hub.busy = 2
    assert "the server answers 503; trying again" in fetched(folder, source_of(hub))
    check_whole(folder)


def test_a_server_that_stays_busy_ends_it_and_keeps_what_came(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_download, "_PAUSES_SECONDS", (0.01, 0.01))
    hub.cuts = [1_000_000] + [0] * 9
    with pytest.raises(CheckpointError, match="What has come is kept"):
        fetched(folder, source_of(hub))
    assert [path.stat().st_size for path in folder.glob("*.part")] == [1_000_000]
    hub.cuts.clear()
    fetched(folder, source_of(hub))
    check_whole(folder)


def test_bytes_that_changed_on_the_way_are_refused(hub: Hub, folder: Path) -> None:
    hub.sha256 = "ab" * 32
    with pytest.raises(CheckpointError, match=r"has the SHA-256 .* should be abab"):
        fetched(folder, source_of(hub))
    assert [path.name for path in folder.iterdir()] == [".fetch.lock"]


def test_a_pinned_checksum_is_stronger_than_the_hubs_word(hub: Hub, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="should be cdcd"):
        fetched(folder, source_of(hub, sha256={"skeleton": "cd" * 32}))
    assert hub.downloads == []


def test_a_pinned_checksum_is_checked_where_the_server_tells_none(hub: Hub, folder: Path) -> None:
    hub.tells_sha256 = False
    with pytest.raises(CheckpointError, match="should be cdcd"):
        fetched(folder, source_of(hub, sha256={"skin": "cd" * 32}))
    assert not (folder / "skin.safetensors").exists()
    right = {"skin": sha256_of(hub.files[OFFICIAL_FILES["skin"]])}
    fetched(folder, source_of(hub, sha256=right))  # type: ignore[arg-type]
    check_whole(folder)


def test_it_is_said_when_there_is_no_checksum(hub: Hub, folder: Path) -> None:
    hub.tells_sha256 = False
    assert fetched(folder, source_of(hub)).count("no SHA-256 is known") == 2


def test_a_model_from_another_file_than_the_pinned_is_fetched_anew(
    hub: Hub, folder: Path, official: Path, tmp_path: Path
) -> None:
    fetched(folder, source_of(hub))
    newer = write_lightning_checkpoint(tmp_path / "newer.ckpt", WEIGHTS["skin"], "newer")
    hub.files[OFFICIAL_FILES["skin"]] = newer.read_bytes()
    pinned: dict[Kind, str] = {"skin": sha256_of(newer.read_bytes())}
    assert "was made from another file" in fetched(folder, source_of(hub, sha256=pinned))
    assert "made from" not in fetched(folder, source_of(hub, sha256=pinned))
    check_whole(folder)


def test_a_disk_that_is_too_small_is_found_before_the_download(hub: Hub, folder: Path) -> None:
    hub.size = 10**17
    with pytest.raises(CheckpointError, match=r"GB free, but 100000000\.0 GB are needed"):
        fetched(folder, source_of(hub))
    assert hub.downloads == []


def test_a_disk_that_fills_up_is_told_and_resumed(hub: Hub, folder: Path) -> None:
    with (
        largest_file(2_000_000),
        pytest.raises(CheckpointError, match=r"cannot fill .* File too large"),
    ):
        fetched(folder, source_of(hub))
    assert [path.stat().st_size for path in folder.glob("*.part")] == [2_000_000]
    fetched(folder, source_of(hub))
    check_whole(folder)


def test_a_conversion_that_fills_the_disk_keeps_the_download(hub: Hub, folder: Path) -> None:
    stop_early(hub, folder)
    (part,) = folder.glob("*.part")
    part.write_bytes(hub.files[OFFICIAL_FILES["skeleton"]])
    with largest_file(1_000_000), pytest.raises(CheckpointError, match="cannot write"):
        fetched(folder, source_of(hub))
    hub.requests.clear()
    fetched(folder, source_of(hub))
    check_whole(folder)
    assert not any("quantization" in download.path for download in hub.downloads)


def test_more_bytes_than_announced_are_refused(hub: Hub, folder: Path) -> None:
    hub.size = 2_000_000
    with pytest.raises(CheckpointError, match="more comes than was announced"):
        fetched(folder, source_of(hub))


def test_another_model_at_the_source_is_refused_and_not_kept(
    hub: Hub, folder: Path, official: Path
) -> None:
    hub.files[OFFICIAL_FILES["skeleton"]] = hub.files[OFFICIAL_FILES["skin"]]
    with pytest.raises(CheckpointError, match="is not the skeleton model's checkpoint"):
        fetched(folder, source_of(hub))
    assert [path.name for path in folder.iterdir()] == [".fetch.lock"]


def test_a_repository_without_the_files_is_told(hub: Hub, folder: Path) -> None:
    hub.files.clear()
    with pytest.raises(CheckpointError, match=r"has neither skeleton\.safetensors nor skeleton/"):
        fetched(folder, source_of(hub))


def test_a_server_that_is_not_there_is_told(hub: Hub, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot reach http://127\.0\.0\.1:9/"):
        fetched(folder, ModelSource("http://127.0.0.1:9/x"))
    with pytest.raises(CheckpointError, match="cannot reach"):
        fetched(folder, ModelSource("http://127.0.0.1:notaport/x"))


def test_the_token_goes_to_the_hub_alone_and_into_no_text(
    hub: Hub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.busy = 1
    source = source_of(hub, token="hf_secret")
    shown = fetched(folder, source)
    for request in hub.requests:
        expected = "" if request.path.startswith("/bytes") else "Bearer hf_secret"
        assert request.authorization == expected
    assert "hf_secret" not in shown + caplog.text + repr(source)


@pytest.mark.parametrize("token", ["hf_sec\nret", "hf sec ret", "hf_sécret"])
def test_a_token_that_cannot_be_sent_is_in_no_text(hub: Hub, folder: Path, token: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetched(folder, source_of(hub, token=token))
    assert "ret" not in str(caught.value)


def test_secrets_in_an_address_are_not_shown(folder: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetched(folder, ModelSource("http://user:secret@127.0.0.1:9/models?sig=secret"))
    assert "secret" not in str(caught.value)


def test_an_offline_folder_fills_the_model_folder(official: Path, folder: Path) -> None:
    fetched(folder, ModelSource(official))
    check_whole(folder)


def test_an_offline_folder_is_checked_against_a_pinned_checksum(
    official: Path, folder: Path
) -> None:
    with pytest.raises(CheckpointError, match="should be cdcd"):
        fetched(folder, ModelSource(official, sha256={"skeleton": "cd" * 32}))


@pytest.fixture
def converted(official: Path, tmp_path: Path) -> Path:
    """A folder of converted models."""
    folder = tmp_path / "converted"
    for kind in KINDS:
        source, target = official / OFFICIAL_FILES[kind], folder / f"{kind}.safetensors"
        convert_checkpoint(source, kind, target, EXPECTED[kind])
    return folder


def test_a_folder_of_converted_models_is_copied(converted: Path, folder: Path) -> None:
    fetched(folder, ModelSource(converted))
    check_whole(folder)


def test_converted_models_come_from_a_web_address(converted: Path, folder: Path) -> None:
    files = {
        f"{kind}.safetensors": (converted / f"{kind}.safetensors").read_bytes() for kind in KINDS
    }
    with hub_server(files) as server:
        place = f"{server.url}/bytes/"
        pinned: dict[Kind, str] = {"skin": sha256_of(files["skin.safetensors"])}
        server.cuts = [1_000_000]
        fetched(folder, ModelSource(place, sha256=pinned))
        check_whole(folder)
        server.requests.clear()
        fetched(folder, ModelSource(place, sha256=pinned))
        assert server.requests == []


def test_a_damaged_converted_model_is_not_taken(converted: Path, folder: Path) -> None:
    damaged = converted / "skin.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match="its checksum is wrong"):
        fetched(folder, ModelSource(converted))
    assert not (folder / "skin.safetensors").exists()


def test_a_converted_model_may_be_of_another_size(tmp_path: Path, folder: Path) -> None:
    tiny = write_tiny_checkpoints(tmp_path / "tiny")
    fetched(folder, ModelSource(tiny))
    for kind in KINDS:
        name = f"{kind}.safetensors"
        assert (folder / name).read_bytes() == (tiny / name).read_bytes()
        assert (folder / name).stat().st_mode & 0o777 == 0o644
    assert fetched(folder, ModelSource(tmp_path / "absent")).count("is there and whole") == 2


def test_nothing_is_written_where_both_are_there(converted: Path, tmp_path: Path) -> None:
    # By hand perhaps, and by another user.
    fetched(converted, ModelSource(tmp_path / "absent"))
    names = sorted(path.name for path in converted.iterdir())
    assert names == ["skeleton.safetensors", "skin.safetensors"]


def test_an_empty_folder_is_told(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="has neither"):
        fetched(folder, ModelSource(tmp_path / "absent"))


def test_a_model_folder_that_cannot_be_made_is_told(official: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot fill"):
        fetched(tmp_path / "file" / "models", ModelSource(official))


def test_two_fetches_into_one_folder_take_turns(hub: Hub, folder: Path) -> None:
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(fetched, folder, source_of(hub)) for _ in range(2)]
    shown = "".join(one.result() for one in both)
    check_whole(folder)
    assert len(hub.downloads) == 2
    assert "Waiting for another process" in shown


def test_a_terminal_gets_a_bar() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80)
    with DownloadProgress(console) as progress:
        progress.advance("skin", 512 * 1024, 1024 * 1024)
        progress.note("a note")
    assert "0.5/1.0 MiB" in shown.getvalue()
    assert "a note" in shown.getvalue()


class Command:
    """The fetch command in a process of its own."""

    def __init__(self, hub: Hub, *arguments: str) -> None:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "hf_secret",
            "UNIRIG_MODEL_REPOSITORY": hub.repository,
        }
        command = [sys.executable, "-m", fetch.__name__, *arguments]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def ended(self) -> tuple[int, str]:
        """Its exit status and all that it said."""
        said, _ = self.process.communicate(timeout=100)
        assert "hf_secret" not in said
        assert "Traceback" not in said
        return self.process.returncode, said


def test_the_command_can_be_stopped_and_goes_on_from_there(hub: Hub, folder: Path) -> None:
    hub.repository = "somebody/else"
    hub.stalls = [1_000_000]
    command = Command(hub, "--folder", str(folder))
    parts: list[Path] = []
    while not parts or parts[0].stat().st_size < 1_000_000:
        assert command.process.poll() is None
        time.sleep(0.05)
        parts = list(folder.glob("*.part"))
    command.process.send_signal(signal.SIGINT)
    assert command.ended() == (130, ANY)
    assert parts[0].stat().st_size == 1_000_000

    status, said = Command(hub, "--folder", str(folder)).ended()
    assert hub.downloads[-1].range == "bytes=1000000-"
    # The small model is none that the real network could take.
    assert status == 1
    assert "is not the skeleton model's checkpoint" in said
    assert not list(folder.glob("*.part"))


def run_main(*arguments: str) -> str:
    """What the command says when it fails with status 1."""
    with pytest.raises(SystemExit) as caught:
        fetch.main(arguments)
    assert isinstance(caught.value.code, str)
    return caught.value.code


def test_the_help_names_every_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIRIG_MODEL_FOLDER", "/var/lib/models")
    with pytest.raises(SystemExit, match="0"):
        fetch.main(["--help"])
    said = capsys.readouterr().out
    for name in (*fetch.FetchSettings.model_fields, "--from", "--sha256", "/var/lib/models"):
        assert name in said or name.upper() in said


def test_settings_choose_mirror_repository_and_revision(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    monkeypatch.setenv("UNIRIG_MODEL_REPOSITORY", "somebody/else")
    monkeypatch.setenv("UNIRIG_MODEL_REVISION", "v2")
    hub.files.clear()
    said = run_main("--folder", str(folder))
    assert said.startswith(f"Error: {hub.url}/somebody/else/resolve/v2 has neither")


def test_a_folder_on_the_command_line_comes_before_the_hub(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    said = run_main("--folder", str(folder), "--from", str(tmp_path / "disk"))
    assert said.startswith(f"Error: {tmp_path / 'disk'} has neither")
    assert hub.requests == []


def test_a_checksum_of_the_settings_is_used(
    official: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIRIG_SKELETON_SHA256", "AB" * 32)
    assert "should be abab" in run_main("--folder", str(folder), "--from", str(official))
    arguments = ("--folder", str(folder), "--from", str(official), "--sha256")
    assert "should be cdcd" in run_main(*arguments, f"skeleton={'CD' * 32}")


def test_a_setting_that_is_no_checksum_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIRIG_SKIN_SHA256", "abc")
    assert "unirig_skin_sha256" in run_main()
