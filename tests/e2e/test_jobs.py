"""Jobs: creation, state, list, cancel and delete, as the reference has them."""

import re
import time
import uuid

import httpx
import pytest

from tests.e2e.conftest import Client

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture
def slow(client: Client, character) -> dict:
    """A job that runs for some seconds: the example character's skeleton."""
    return client.job("skeleton", input_file=client.uploaded(character))


def test_a_new_job_has_the_references_fields(client: Client, tetrahedron: bytes) -> None:
    path = client.uploaded(tetrahedron, "model.obj")
    job = client.job("skeleton", input_file=path)
    assert uuid.UUID(job["job_id"])
    assert job["status"] == "pending"
    assert job["type"] == "skeleton"
    assert job["input_file"] == path
    assert TIME.fullmatch(job["created_at"])
    assert job["progress"] == 0


def test_a_job_goes_from_pending_through_real_progress_to_completed(
    client: Client, character
) -> None:
    job = client.job("skeleton", input_file=client.uploaded(character))
    seen = []

    def ended(now: dict) -> bool:
        seen.append((now["status"], now["progress"]))
        return now["status"] in ("completed", "failed")

    job = client.wait(job["job_id"], until=ended)
    assert job["status"] == "completed"
    progress = [value for _, value in seen]
    assert progress == sorted(progress)
    assert progress[-1] == 100
    assert len({value for value in progress if 0 < value < 100}) >= 3, seen
    assert "running" in {status for status, _ in seen}


def test_a_completed_skeleton_job_has_every_field(rigged) -> None:
    client, jobs = rigged
    job = client.http.get(f"/api/jobs/{jobs['skeleton']['job_id']}").json()
    session = client.session_id
    assert job["input_file"] == f"/uploads/{session}/character.obj"
    assert job["output_file"] == f"/results/{session}/character_skeleton.obj"
    assert job["error"] is None
    assert job["progress"] == 100
    for name in ("created_at", "started_at", "completed_at"):
        assert TIME.fullmatch(job[name])
    assert job["created_at"] <= job["started_at"] <= job["completed_at"]
    formats = {artifact["format"]: artifact for artifact in job["artifacts"]}
    assert {"obj", "fbx", "glb"} <= set(formats)
    for artifact in job["artifacts"]:
        head = client.http.head(artifact["path"])
        assert int(head.headers["content-length"]) == artifact["size"] > 0
    assert job["engine"] == "geometric"
    assert job["engine_version"]


def test_skinning_and_merge_have_the_same_structure(rigged) -> None:
    _client, jobs = rigged
    assert jobs["skinning"]["type"] == "skinning"
    assert jobs["merge"]["type"] == "merge"
    assert jobs["skinning"]["input_file"] == jobs["skeleton"]["output_file"]
    assert jobs["merge"]["output_file"].endswith("/character_rigged.fbx")
    assert set(jobs["skeleton"]) <= set(jobs["skinning"])
    assert set(jobs["skeleton"]) <= set(jobs["merge"])


def test_a_running_job_shows_nulls_where_nothing_is_yet(client: Client, slow: dict) -> None:
    job = client.wait(slow["job_id"], until=lambda now: now["status"] == "running")
    assert job["output_file"] is None
    assert job["error"] is None
    assert job["completed_at"] is None
    assert TIME.fullmatch(job["started_at"])


def test_a_second_job_conflicts_while_one_is_active(client: Client, slow: dict) -> None:
    response = client.post("/api/jobs/skeleton", json={"input_file": slow["input_file"]})
    assert response.status_code == 409
    body = response.json()
    assert body["error_code"] == "CONCURRENT_JOB_LIMIT"
    assert body["detail"] == "Cannot create new job: Active job already exists for this session"


def test_other_sessions_jobs_do_not_conflict(
    client: Client, slow: dict, other: Client, tetrahedron: bytes
) -> None:
    assert client.http.get(f"/api/jobs/{slow['job_id']}").status_code == 200
    job = other.job("skeleton", input_file=other.uploaded(tetrahedron, "model.obj"))
    assert job["status"] == "pending"


def test_cancel_stops_the_work_and_the_next_job_may_start(
    client: Client, slow: dict, tetrahedron: bytes
) -> None:
    client.wait(slow["job_id"], until=lambda now: now["progress"] > 0)
    response = client.post(f"/api/jobs/{slow['job_id']}/cancel")
    assert response.status_code == 200
    assert response.json() == {
        "job_id": slow["job_id"],
        "status": "cancelled",
        "message": "Job cancelled successfully",
    }
    time.sleep(1)
    job = client.http.get(f"/api/jobs/{slow['job_id']}").json()
    assert job["status"] == "cancelled"
    assert job["output_file"] is None
    done = client.finished("skeleton", input_file=client.uploaded(tetrahedron, "next.obj"))
    assert done["status"] in ("completed", "failed")


def test_an_ended_job_cannot_be_cancelled(rigged) -> None:
    client, jobs = rigged
    response = client.post(f"/api/jobs/{jobs['merge']['job_id']}/cancel")
    assert response.status_code == 400
    assert response.json()["detail"] == "Cannot cancel job: Job already completed"


def test_a_deleted_job_is_gone_with_its_results(client: Client, tetrahedron: bytes) -> None:
    job = client.finished("skeleton", input_file=client.uploaded(tetrahedron, "model.obj"))
    response = client.delete(f"/api/jobs/{job['job_id']}")
    assert response.status_code == 200
    assert response.json() == {"message": "Job deleted successfully"}
    gone = client.http.get(f"/api/jobs/{job['job_id']}")
    assert (gone.status_code, gone.json()["error_code"]) == (404, "JOB_NOT_FOUND")
    for artifact in job["artifacts"]:
        assert client.http.get(artifact["path"]).status_code == 404
    # The upload stays: it is the user's.
    assert client.finished("skeleton", input_file=job["input_file"])["status"] == job["status"]


def test_deleting_an_active_job_cancels_it_first(
    client: Client, slow: dict, tetrahedron: bytes
) -> None:
    assert client.delete(f"/api/jobs/{slow['job_id']}").status_code == 200
    assert client.http.get("/api/jobs").json()["total"] == 0
    client.job("skeleton", input_file=client.uploaded(tetrahedron, "next.obj"))


def test_the_list_is_newest_first_with_filter_and_pages(client: Client, tetrahedron: bytes) -> None:
    path = client.uploaded(tetrahedron, "model.obj")
    made = []
    for _ in range(3):
        job = client.job("skeleton", input_file=path)
        made.insert(0, job["job_id"])
        client.post(f"/api/jobs/{job['job_id']}/cancel")
        client.wait(job["job_id"])
    whole = client.http.get("/api/jobs").json()
    assert [job["job_id"] for job in whole["jobs"]] == made
    assert (whole["total"], whole["limit"], whole["offset"]) == (3, 50, 0)
    for name in ("job_id", "status", "type", "progress", "created_at", "completed_at"):
        assert name in whole["jobs"][0]
    page = client.http.get("/api/jobs", params={"limit": 1, "offset": 1}).json()
    assert [job["job_id"] for job in page["jobs"]] == made[1:2]
    assert (page["total"], page["limit"], page["offset"]) == (3, 1, 1)
    by_status = {
        status: client.http.get("/api/jobs", params={"status": status}).json()["total"]
        for status in ("pending", "running", "completed", "failed", "cancelled")
    }
    assert sum(by_status.values()) == 3


@pytest.mark.parametrize(
    "query",
    ["status=done", "limit=0", "limit=201", "limit=x", "offset=-1", "offset=x"],
)
def test_a_wrong_list_query_is_an_invalid_request(client: Client, query: str) -> None:
    response = client.http.get(f"/api/jobs?{query}")
    assert (response.status_code, response.json()["error_code"]) == (400, "INVALID_REQUEST")


def test_another_sessions_job_is_not_found(client: Client, slow: dict, other: Client) -> None:
    path = f"/api/jobs/{slow['job_id']}"
    for response in (
        other.http.get(path),
        other.post(f"{path}/cancel"),
        other.delete(path),
    ):
        assert (response.status_code, response.json()["error_code"]) == (404, "JOB_NOT_FOUND")
    assert client.http.get(path).json()["status"] in ("pending", "running", "completed")


@pytest.mark.parametrize("job_id", ["no-such-job", str(uuid.uuid4()), "%00", "a" * 3000])
def test_an_unknown_job_is_not_found(client: Client, job_id: str) -> None:
    response = client.http.get(f"/api/jobs/{job_id}")
    assert (response.status_code, response.json()["error_code"]) == (404, "JOB_NOT_FOUND")


def test_another_sessions_file_cannot_be_worked_on(
    client: Client, other: Client, tetrahedron: bytes
) -> None:
    theirs = other.uploaded(tetrahedron, "model.obj")
    for path in (
        theirs,
        f"/uploads/{client.session_id}/../{other.session_id}/model.obj",
        f"/uploads/{client.session_id}/none.obj",
        "/etc/passwd",
        "",
    ):
        response = client.post("/api/jobs/skeleton", json={"input_file": path})
        assert (response.status_code, response.json()["error_code"]) in (
            (404, "FILE_NOT_FOUND"),
            (400, "INVALID_REQUEST"),
        ), path
    response = client.post(
        "/api/jobs/merge", json={"skeleton_file": theirs, "skinning_file": theirs}
    )
    assert response.status_code == 404


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("skeleton", b"{"),
        ("skeleton", b""),
        ("skeleton", b"[]"),
        ("skeleton", b"{}"),
        ("skeleton", b'{"input_file": 7}'),
        ("skinning", b'{"input_file": null}'),
        ("merge", b'{"skeleton_file": "/results/x/y.fbx"}'),
        ("merge", b'{"skeleton_file": "a", "skinning_file": "b", "output_format": "obj"}'),
        ("merge", b'{"skeleton_file": "a", "skinning_file": "b", "output_format": "exe"}'),
        ("skeleton", b"\xff\xfe"),
    ],
)
def test_a_body_that_is_not_what_it_should_be_is_an_invalid_request(
    client: Client, kind: str, body: bytes
) -> None:
    response = client.http.post(
        f"/api/jobs/{kind}",
        content=body,
        headers={**client.headers, "Content-Type": "application/json"},
    )
    assert (response.status_code, response.json()["error_code"]) == (400, "INVALID_REQUEST")
    assert response.json()["detail"]


def test_merge_can_make_glb_and_defaults_to_fbx(rigged) -> None:
    client, jobs = rigged
    files = {
        "skeleton_file": jobs["skeleton"]["output_file"],
        "skinning_file": jobs["skinning"]["output_file"],
    }
    default = client.finished("merge", **files)
    assert default["output_file"].endswith(".fbx")
    glb = client.finished("merge", **files, output_format="glb")
    assert glb["output_file"].endswith(".glb")
    assert client.http.get(glb["output_file"]).content[:4] == b"glTF"


def test_an_unreadable_model_fails_with_a_text_and_a_code(client: Client) -> None:
    path = client.uploaded(b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "broken.obj")
    job = client.finished("skeleton", input_file=path)
    assert job["status"] == "failed"
    assert job["error_code"] == "INVALID_MESH"
    assert job["error"]
    assert TIME.fullmatch(job["completed_at"])
    cannot = client.post(f"/api/jobs/{job['job_id']}/cancel")
    assert cannot.json()["detail"] == "Cannot cancel job: Job already failed"


def test_skinning_without_a_skeleton_says_what_to_do(client: Client, tetrahedron: bytes) -> None:
    job = client.finished("skinning", input_file=client.uploaded(tetrahedron, "model.obj"))
    assert job["status"] == "failed"
    assert "skeleton" in job["error"].lower()


def test_results_can_be_read_without_a_cookie_by_who_knows_the_session(rigged) -> None:
    client, jobs = rigged
    assert httpx.get(client.url + jobs["merge"]["output_file"]).status_code == 200
