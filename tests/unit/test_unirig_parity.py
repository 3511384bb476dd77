"""The command that compares all with outputs of the reference implementation."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from services.inference.unirig_network.parity import main

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"


@pytest.fixture
def golden() -> Path:
    if not GOLDEN.is_dir():
        pytest.skip(f"the reference's outputs are not beside the checkout ({GOLDEN})")
    return GOLDEN


def failure(folder: Path) -> str:
    """What the command says as it exits with 1."""
    with pytest.raises(SystemExit) as exited:
        main([str(folder)])
    assert isinstance(exited.value.code, str)
    return exited.value.code


def test_everything_is_within_its_bound(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(golden)])
    printed = capsys.readouterr().out
    for path in (*golden.glob("*.pt"), *golden.glob("*.json")):
        assert path.stem in printed
    assert len(printed.splitlines()) > 150
    for word in ("PAST", "ERROR", "not compared"):
        assert word not in printed


def test_a_number_that_differs_is_named(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convolutions = torch.load(golden / "spconv_subm_real.pt", weights_only=True)
    convolutions["dups_k3"]["out"][7, 3] += 0.01
    torch.save(convolutions, tmp_path / "spconv_altered.pt")
    assert "past a bound" in failure(tmp_path)
    past = [line for line in capsys.readouterr().out.splitlines() if "PAST" in line]
    [line] = past
    assert line.split() == ["spconv_altered", "dups_k3", "1.00e-02", "1e-04", "PAST"]


def test_a_state_dict_that_differs_is_counted(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = json.loads((golden / "unirig_skin_state_dict.json").read_text())
    listed["model.kmesh.bias"] = [3]
    listed["model.kmesh.offset"] = listed.pop("model.qmesh.bias")
    (tmp_path / "unirig_skin_state_dict.json").write_text(json.dumps(listed))
    failure(tmp_path)
    names, shapes, values = capsys.readouterr().out.splitlines()[1:]
    assert "1156 names: missing or unexpected" in names
    assert [line.split()[-3] for line in (names, shapes, values)] == [
        "2.00e+00",
        "1.00e+00",
        "1.23e+04",
    ]


def test_a_file_that_cannot_be_read_does_not_keep_the_others_from_being_compared(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ar_broken.pt").write_bytes(b"nothing of use")
    torch.save({"another": "thing"}, tmp_path / "skin_strange.pt")
    shutil.copy(golden / "spconv_subm_real.pt", tmp_path)
    failure(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if "ERROR" in line] == [
        "ar_broken.pt",
        "skin_strange.pt",
    ]
    assert sum(line.endswith(" ok") for line in lines) == 4


def test_a_file_of_unknown_name_is_told(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(golden / "spconv_subm_real.pt", tmp_path)
    (tmp_path / "novelty.pt").touch()
    main([str(tmp_path)])
    assert "novelty.pt: not compared" in capsys.readouterr().out


def test_a_folder_without_files_to_compare_with_is_an_error(tmp_path: Path) -> None:
    assert "nothing to compare with" in failure(tmp_path)
    assert "nothing to compare with" in failure(tmp_path / "absent")


def test_usage_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main([])
    assert exited.value.code == 2
    assert "usage" in capsys.readouterr().err
