"""The neural engine end to end: the public API, a real Triton server, and tiny networks in it."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.cli.servers import free_port
from services.cli.stack import SERVICES, Stack
from tests.e2e.conftest import Client
from tests.job_services import figure_obj
from tests.rate_limits import ROOMY
from tests.tiny_unirig import LONG_TOKENS, tiny_settings, write_tiny_checkpoints

SHORT = {"seed": 7, "beams": 1, "max_joints": 20}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoints(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def neural(tmp_path_factory: pytest.TempPathFactory, checkpoints: Path) -> Iterator[Stack]:
    """A stack with a Triton server; a skeleton takes many seconds unless its joints are limited."""
    settings = {**ROOMY, **tiny_settings(checkpoints, LONG_TOKENS), "RETRY_SECONDS": "1"}
    folder = tmp_path_factory.mktemp("neural")
    with Stack(folder, free_port(), settings=settings, models=checkpoints) as stack:
        yield stack


@pytest.fixture
def artist(neural: Stack) -> Iterator[Client]:
    client = Client(neural.url)
    yield client
    client.http.close()


def counter(stack: Stack, name: str) -> float:
    """The sum of a metric over its labels, as Triton's metrics port has it."""
    assert stack.triton is not None
    lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", stack.triton.metrics(), re.MULTILINE)
    return sum(map(float, lines))


def is_decoding(job: dict[str, Any]) -> bool:
    """Whether tokens come: they are most of what lies between 25 and 65 percent."""
    assert job["status"] in ("pending", "running"), job
    return 35 <= job["progress"] < 60


def test_a_job_goes_through_the_networks_from_upload_to_rigged_file(artist: Client) -> None:
    path = artist.uploaded(figure_obj(), "figure.obj")
    seen: set[tuple[int, str]] = set()

    def ended(job: dict[str, Any]) -> bool:
        seen.add((job["progress"], job.get("message") or ""))
        return job["status"] not in ("pending", "running")

    skeleton = artist.wait(artist.job("skeleton", input_file=path)["job_id"], until=ended)
    assert skeleton["status"] == "completed", skeleton
    assert (skeleton["engine"], skeleton["notes"]) == ("unirig", [])
    # From inside the network, which has 31 to 63 of the hundred.
    assert len({progress for progress, _ in seen if 31 < progress < 63}) >= 5, sorted(seen)
    skinning = artist.finished("skinning", input_file=skeleton["output_file"])
    assert skinning["status"] == "completed", skinning
    assert skinning["engine"] == "unirig"
    merge = artist.finished(
        "merge",
        skeleton_file=skeleton["output_file"],
        skinning_file=skinning["output_file"],
        output_format="glb",
    )
    assert merge["status"] == "completed", merge
    assert artist.http.get(merge["output_file"]).content.startswith(b"glTF")


def test_the_same_seed_gives_the_same_skeleton_and_another_another(artist: Client) -> None:
    path = artist.uploaded(figure_obj(), "figure.obj")
    files = []
    for seed in (7, 7, 8):
        job = artist.finished("skeleton", input_file=path, options={**SHORT, "seed": seed})
        assert job["status"] == "completed", job
        assert job["options"]["seed"] == seed
        files.append(artist.http.get(job["output_file"]).content)
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_jobs_of_two_sessions_are_decoded_in_one_batch(neural: Stack) -> None:
    before = counter(neural, "unirig_decode_shared_steps_total")

    def rig(seed: int) -> str:
        client = Client(neural.url)
        path = client.uploaded(figure_obj(), "figure.obj")
        job = client.finished("skeleton", input_file=path, options={"seed": seed})
        client.http.close()
        return str(job["status"])

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(rig, (1, 2))) == ["completed", "completed"]
    assert counter(neural, "unirig_decode_shared_steps_total") > before


def test_a_cancelled_job_leaves_the_decoding_loop(neural: Stack, artist: Client) -> None:
    job = artist.job("skeleton", input_file=artist.uploaded(figure_obj(), "figure.obj"))
    artist.wait(job["job_id"], until=is_decoding)
    assert counter(neural, "unirig_active_requests") == 1
    assert artist.post(f"/api/jobs/{job['job_id']}/cancel").status_code == 200
    # Long before it would have ended by itself.
    ThreadPoolExecutor().submit(wait_until_idle, neural).result(timeout=5)
    again = artist.finished("skeleton", input_file=job["input_file"], options=SHORT)
    assert again["status"] == "completed", again


def wait_until_idle(stack: Stack) -> None:
    while counter(stack, "unirig_active_requests"):
        pass


def test_a_job_survives_a_triton_that_is_killed_and_comes_back(
    neural: Stack, artist: Client
) -> None:
    path = artist.uploaded(figure_obj(), "figure.obj")
    job = artist.job("skeleton", input_file=path)
    artist.wait(job["job_id"], until=is_decoding)
    assert neural.triton is not None
    neural.triton.kill()
    neural.start_triton()
    done = artist.wait(job["job_id"])
    assert done["status"] == "completed", done
    assert not neural.ended_services()


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
def test_a_checkpoint_that_is_missing_or_damaged_is_named_with_the_command_that_fetches_it(
    tmp_path: Path, checkpoints: Path, damage: str
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    if damage == "corrupt":
        for whole in checkpoints.glob("*.safetensors"):
            (folder / whole.name).write_bytes(whole.read_bytes()[:-100])
    settings = {**ROOMY, **tiny_settings(folder)}
    with Stack(tmp_path / "data", free_port(), settings=settings, models=folder) as stack:
        client = Client(stack.url)
        path = client.uploaded(figure_obj(), "figure.obj")
        failed = client.finished("skeleton", input_file=path)
        assert (failed["status"], failed["error_code"]) == ("failed", "MODEL_CHECKPOINT_MISSING")
        assert "unirig fetch-models" in failed["error"]
        assert not stack.ended_services()
        assert not stack.triton_has_ended()
        # Once it is there, the next job has it: nothing is restarted.
        write_tiny_checkpoints(folder)
        done = client.finished("skeleton", input_file=path)
        assert done["status"] == "completed", done
        for name in SERVICES:
            assert "Traceback" not in stack.log_of(name).read_text()
