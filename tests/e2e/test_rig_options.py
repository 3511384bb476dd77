"""Options on a job: taken within bounds, echoed, and never in the way of a request without any."""

from typing import Any

import pytest

from tests.e2e.conftest import Client

ALL = {
    "seed": 2**32 - 1,
    "skeleton_class": "mixamo",
    "beams": 15,
    "temperature": 0.95,
    "top_k": 5,
    "top_p": 0.9,
    "repetition_penalty": 3.0,
    "max_joints": 64,
}


def test_options_are_echoed_as_they_were_given(client: Client, tetrahedron: bytes) -> None:
    path = client.uploaded(tetrahedron, "model.obj")
    job = client.job("skeleton", input_file=path, options=ALL)
    assert job["options"] == ALL
    done = client.wait(job["job_id"])
    assert done["options"] == ALL
    assert done["status"] == "completed", done
    # The stack's engine is the geometric one, and says that it is not the one for these.
    assert any("no use for the options given: seed, skeleton_class" in n for n in done["notes"])


def test_a_skinning_job_takes_a_seed(rigged: tuple[Client, dict[str, Any]]) -> None:
    client, jobs = rigged
    job = client.job("skinning", input_file=jobs["skeleton"]["output_file"], options={"seed": 0})
    assert job["options"] == {"seed": 0}
    client.post(f"/api/jobs/{job['job_id']}/cancel")


@pytest.mark.parametrize("given", [{}, {"options": None}, {"options": {}}])
def test_a_job_without_options_has_no_such_field(
    client: Client, tetrahedron: bytes, given: dict[str, Any]
) -> None:
    job = client.job("skeleton", input_file=client.uploaded(tetrahedron, "a.obj"), **given)
    assert "options" not in job
    assert "options" not in client.wait(job["job_id"])


@pytest.mark.parametrize(
    "options",
    [
        {"seed": -1},
        {"seed": 2**32},
        {"seed": 1.5},
        {"skeleton_class": "rignet"},
        {"beams": 0},
        {"beams": 16},
        {"temperature": 0},
        {"temperature": 1e300},
        {"top_k": 51},
        {"top_p": 1.01},
        {"repetition_penalty": 0.5},
        {"max_joints": 1},
        {"max_tokens": 10**9},
        {"sead": 1},
        "seed=1",
        [1],
    ],
)
def test_options_out_of_bounds_are_refused_by_name(
    client: Client, tetrahedron: bytes, options: Any
) -> None:
    path = client.uploaded(tetrahedron, "model.obj")
    answer = client.post("/api/jobs/skeleton", json={"input_file": path, "options": options})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_REQUEST")
    name = next(iter(options)) if isinstance(options, dict) else "options"
    assert name in answer.json()["detail"]
    assert client.http.get("/api/jobs").json()["total"] == 0


def test_a_skinning_job_refuses_what_only_skeletons_have(client: Client) -> None:
    request = {"input_file": "/uploads/x/a.obj", "options": {"beams": 2}}
    answer = client.post("/api/jobs/skinning", json=request)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_REQUEST")
    assert "beams" in answer.json()["detail"]
