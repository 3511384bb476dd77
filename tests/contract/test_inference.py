"""The inference worker among real neighbours: NATS, Redis, the jobs and the storage service."""

from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import nats
import numpy as np
import pytest
from nats.aio.msg import Msg
from unirig.v1 import jobs_pb2, messages_pb2

from services.common import subjects
from services.inference.checks import check_skeleton, check_weights
from services.inference.formats.obj import write_obj
from services.inference.geometry import Skeleton, load_mesh, load_skeleton, load_weights
from tests.job_services import (
    JobServices,
    ServiceProcess,
    descendants,
    figure_obj,
    is_alive,
    job_services,
    until,
)

SKELETON = jobs_pb2.JOB_TYPE_SKELETON
SKINNING = jobs_pb2.JOB_TYPE_SKINNING
MERGE = jobs_pb2.JOB_TYPE_MERGE
FAILED = jobs_pb2.JOB_STATUS_FAILED
CANCELLED = jobs_pb2.JOB_STATUS_CANCELLED


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[JobServices]:
    async with job_services(tmp_path_factory.mktemp("services")) as services:
        yield services


@pytest.fixture(scope="module")
def worker(running: JobServices) -> ServiceProcess:
    return running.worker().start()


@pytest.fixture
def services(running: JobServices, worker: ServiceProcess) -> JobServices:
    """The services, one worker, and a session of the test's own."""
    running.new_session()
    return running


@pytest.fixture(scope="module")
async def rigged(running: JobServices, worker: ServiceProcess) -> dict[str, jobs_pb2.Job]:
    """The three jobs of a figure that was rigged, in a session that later tests share."""
    running.new_session()
    upload = await running.upload("hero.obj", figure_obj())
    skeleton = await running.finished(SKELETON, upload)
    skinning = await running.finished(SKINNING, skeleton.output_file)
    merge = await running.finished(
        MERGE,
        skeleton.output_file,
        skinning_file=skinning.output_file,
        output_format="fbx",
    )
    return {"skeleton": skeleton, "skinning": skinning, "merge": merge}


@pytest.fixture
def after(running: JobServices, rigged: dict[str, jobs_pb2.Job]) -> JobServices:
    """The services in the session where the figure was rigged."""
    running.session_id = rigged["skeleton"].session_id
    return running


def names_of(job: jobs_pb2.Job) -> list[str]:
    return [artifact.path.rpartition("/")[2] for artifact in job.artifacts]


async def arrays_of(services: JobServices, job: jobs_pb2.Job) -> Path:
    """A copy of the job's arrays on disk."""
    [path] = [artifact.path for artifact in job.artifacts if artifact.format == "npz"]
    copy = services.folder / f"{job.job_id}.npz"
    copy.write_bytes(await services.content(path))
    return copy


def in_scratch(services: JobServices) -> list[Path]:
    return list(services.scratch.glob("worker-*/job-*"))


@pytest.mark.parametrize(
    ("stage", "files"),
    [
        ("skeleton", {"hero_skeleton.obj", "hero_skeleton.fbx", "hero_skeleton.glb"}),
        ("skinning", {"hero_skinned.fbx", "hero_skinned.glb"}),
        ("merge", {"hero_rigged.fbx", "hero_rigged.glb"}),
    ],
)
async def test_every_stage_stores_its_formats_and_where_they_came_from(
    after: JobServices, rigged: dict[str, jobs_pb2.Job], stage: str, files: set[str]
) -> None:
    job = rigged[stage]
    [npz] = [name for name in names_of(job) if name.endswith(".npz")]
    assert set(names_of(job)) == files | {npz}
    assert (job.engine, job.engine_version, job.attempt) == ("geometric", "1.0.0", 1)
    upload = rigged["skeleton"].spec.input_file
    arrays = f"/results/{job.session_id}/{npz}"
    for artifact in job.artifacts:
        info = await after.describe(artifact.path)
        assert info.size == artifact.size
        lineage = (info.lineage.job_id, info.lineage.stage, info.lineage.asset_path)
        assert lineage == (job.job_id, stage, upload)
        assert info.lineage.arrays_path == ("" if artifact.path == arrays else arrays)


@pytest.mark.parametrize(
    ("stage", "main"),
    [
        ("skeleton", "hero_skeleton.obj"),
        ("skinning", "hero_skinned.fbx"),
        ("merge", "hero_rigged.fbx"),
    ],
)
def test_the_main_result_is_in_the_inputs_format_where_that_can_carry_it(
    rigged: dict[str, jobs_pb2.Job], stage: str, main: str
) -> None:
    job = rigged[stage]
    assert job.output_file == f"/results/{job.session_id}/{main}"
    assert job.artifacts[0].path == job.output_file


async def test_the_exact_arrays_go_from_stage_to_stage(
    after: JobServices, rigged: dict[str, jobs_pb2.Job]
) -> None:
    stages = {stage: await arrays_of(after, job) for stage, job in rigged.items()}
    skeleton = load_skeleton(stages["skeleton"])
    mesh = load_mesh(stages["skeleton"])
    check_skeleton(mesh, skeleton)
    for stage in ("skinning", "merge"):
        again = load_skeleton(stages[stage])
        assert again.names == skeleton.names
        assert np.array_equal(again.heads, skeleton.heads)
        check_weights(mesh, skeleton, load_weights(stages[stage]), 4)
    for stages_arrays in stages.values():
        assert np.array_equal(load_mesh(stages_arrays).vertices, mesh.vertices)


async def test_the_user_sees_steady_progress_in_words(services: JobServices) -> None:
    connection = await nats.connect(services.nats.url)
    reports: list[messages_pb2.JobProgress] = []

    async def note(message: Msg) -> None:
        reports.append(messages_pb2.JobProgress.FromString(message.data))

    await connection.subscribe(subjects.PROGRESS_ALL, cb=note)
    upload = await services.upload("hero.obj", figure_obj())
    job = await services.finished(SKELETON, upload)
    await connection.close()
    own = [report for report in reports if report.job_id == job.job_id]
    percents = [report.progress for report in own]
    assert percents == sorted(percents)
    assert len(set(percents)) >= 6
    assert percents[-1] <= 99
    assert max(after - before for before, after in pairwise(percents)) < 45
    assert all(report.message and report.attempt == 1 for report in own)


async def test_an_edited_skeleton_is_read_from_the_file_that_was_uploaded(
    after: JobServices, rigged: dict[str, jobs_pb2.Job]
) -> None:
    original = await after.content(rigged["skeleton"].output_file)
    root = load_skeleton(await arrays_of(after, rigged["skeleton"])).names[0]
    edited = original.replace(f"g {root}\n".encode(), b"g my_own_root\n")
    assert edited != original
    upload = await after.upload("hero_skeleton.obj", edited)
    job = await after.finished(SKINNING, upload)
    assert names_of(job)[0] == "hero_skinned-2.fbx"
    assert (await after.describe(job.output_file)).lineage.asset_path == upload
    assert load_skeleton(await arrays_of(after, job)).names[0] == "my_own_root"


async def test_a_merge_accepts_other_names_for_the_same_joints(
    after: JobServices, rigged: dict[str, jobs_pb2.Job]
) -> None:
    original = await after.content(rigged["skeleton"].output_file)
    root = load_skeleton(await arrays_of(after, rigged["skeleton"])).names[0]
    edited = original.replace(f"g {root}\n".encode(), b"g renamed\n")
    job = await after.finished(
        MERGE,
        await after.upload("renamed.obj", edited),
        skinning_file=rigged["skinning"].output_file,
        output_format="glb",
    )
    assert names_of(job)[0].endswith(".glb")
    assert load_skeleton(await arrays_of(after, job)).names[0] == "renamed"


async def test_a_merge_of_unrelated_rigs_names_the_joints_that_are_missing(
    after: JobServices, rigged: dict[str, jobs_pb2.Job], tmp_path: Path
) -> None:
    heads = np.array([[0, 0.9, 0], [0, 1.4, 0]], np.float32)
    tails = np.array([[0, 1.4, 0], [0, 1.7, 0]], np.float32)
    two_joints = Skeleton(("below", "above"), np.array([-1, 0], np.int32), heads, tails)
    mesh = load_mesh(await arrays_of(after, rigged["skeleton"]))
    write_obj(tmp_path / "other.obj", mesh, two_joints)
    job = await after.ended(
        await after.create(
            MERGE,
            await after.upload("other.obj", (tmp_path / "other.obj").read_bytes()),
            skinning_file=rigged["skinning"].output_file,
            output_format="fbx",
        )
    )
    assert (job.status, job.error_code) == (FAILED, "INVALID_MESH")
    names = load_skeleton(await arrays_of(after, rigged["skeleton"])).names
    assert any(name in job.error for name in names), job.error
    assert "does not have" in job.error


async def test_a_merge_onto_another_model_says_that_they_do_not_fit(
    after: JobServices, rigged: dict[str, jobs_pb2.Job]
) -> None:
    moved = figure_obj().replace(b"v ", b"v 9")
    job = await after.ended(
        await after.create(
            MERGE,
            rigged["skeleton"].output_file,
            skinning_file=rigged["skinning"].output_file,
            target_file=await after.upload("moved.obj", moved),
            output_format="fbx",
        )
    )
    assert (job.status, job.error_code) == (FAILED, "INVALID_MESH"), job


async def test_a_merge_rigs_the_target_that_is_asked_for(
    after: JobServices, rigged: dict[str, jobs_pb2.Job]
) -> None:
    target = await after.upload("dressed.obj", b"# the same, but for its looks\n" + figure_obj())
    job = await after.finished(
        MERGE,
        rigged["skeleton"].output_file,
        skinning_file=rigged["skinning"].output_file,
        target_file=target,
        output_format="glb",
    )
    assert names_of(job)[0] == "dressed_rigged.glb"
    assert (await after.describe(job.output_file)).lineage.asset_path == target


async def test_a_merge_makes_a_vrm_where_that_is_asked_for(
    after: JobServices, rigged: dict[str, jobs_pb2.Job]
) -> None:
    job = await after.finished(
        MERGE,
        rigged["skeleton"].output_file,
        skinning_file=rigged["skinning"].output_file,
        output_format="vrm",
    )
    assert [artifact.format for artifact in job.artifacts] == ["vrm", "fbx", "glb", "npz"]
    upload = await after.upload("hero.vrm", await after.content(job.output_file))
    again = await after.finished(SKELETON, upload)
    assert again.output_file.endswith("/hero_skeleton.vrm")


@pytest.mark.parametrize("extension", ["fbx", "glb"])
async def test_a_merge_takes_the_weights_of_a_file_that_was_uploaded(
    after: JobServices, rigged: dict[str, jobs_pb2.Job], extension: str
) -> None:
    [path] = [each.path for each in rigged["skinning"].artifacts if each.format == extension]
    job = await after.finished(
        MERGE,
        rigged["skeleton"].output_file,
        skinning_file=await after.upload(f"edited.{extension}", await after.content(path)),
        output_format="glb",
    )
    assert (await after.describe(job.output_file)).lineage.asset_path == (
        rigged["skeleton"].spec.input_file
    )
    assert names_of(job)[0].startswith("hero_rigged")
    before = load_weights(await arrays_of(after, rigged["merge"]))
    merged = load_weights(await arrays_of(after, job))
    assert np.allclose(before.weights[:, 0], merged.weights[:, 0], atol=2e-2)


async def test_a_merge_without_weights_says_what_to_do(
    after: JobServices, rigged: dict[str, jobs_pb2.Job]
) -> None:
    skeleton = rigged["skeleton"].output_file
    job = await after.ended(
        await after.create(MERGE, skeleton, skinning_file=skeleton, output_format="fbx")
    )
    assert (job.status, job.error_code) == (FAILED, "INVALID_MESH")
    assert "Run a skinning job first" in job.error


async def test_a_rig_that_the_model_had_is_replaced_and_that_is_said(
    after: JobServices, rigged: dict[str, jobs_pb2.Job]
) -> None:
    [glb] = [each.path for each in rigged["merge"].artifacts if each.format == "glb"]
    upload = await after.upload("old_rigged.glb", await after.content(glb))
    job = await after.finished(SKELETON, upload)
    assert names_of(job)[0] == "old_skeleton.glb"
    assert any("The rig that the model had was replaced." in note for note in job.notes)


async def test_skinning_without_a_skeleton_says_what_to_do(services: JobServices) -> None:
    upload = await services.upload("hero.obj", figure_obj())
    job = await services.ended(await services.create(SKINNING, upload))
    assert (job.status, job.error_code) == (FAILED, "INVALID_MESH")
    assert "Run a skeleton job first" in job.error


@pytest.mark.parametrize(
    ("filename", "content"),
    [
        ("no_faces.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"),
        ("nan.obj", b"v nan 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\n"),
        ("outside.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n"),
        ("triangle.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
        ("truncated.glb", b"glTF\x02\x00\x00\x00\xff\xff\x00\x00"),
        ("truncated.fbx", b"Kaydara FBX Binary  \x00\x1a\x00\xe8\x1c\x00\x00" + b"\x07" * 90),
    ],
)
async def test_a_bad_model_fails_at_once_with_a_reason_and_leaves_nothing(
    services: JobServices, filename: str, content: bytes
) -> None:
    upload = await services.upload(filename, content)
    job = await services.ended(await services.create(SKELETON, upload))
    assert (job.status, job.error_code, job.attempt) == (FAILED, "INVALID_MESH", 1)
    assert job.error.endswith("."), job.error
    assert await services.results_stored() == 0
    assert in_scratch(services) == []


async def test_a_file_that_is_gone_fails_the_job(services: JobServices) -> None:
    path = f"/uploads/{services.session_id}/gone.obj"
    job = await services.ended(await services.create(SKELETON, path))
    assert (job.status, job.error_code) == (FAILED, "FILE_NOT_FOUND")


async def test_a_cancelled_job_stops_its_process_and_writes_nothing(
    services: JobServices, worker: ServiceProcess
) -> None:
    upload = await services.upload("hero.obj", figure_obj())
    job_id = await services.create(SKELETON, upload)
    await services.when(job_id, lambda job: job.progress >= 20)
    await until(lambda: bool(descendants(worker.pid)))
    steps = descendants(worker.pid)
    await services.cancel(job_id)
    await until(lambda: not any(map(is_alive, steps)) and not in_scratch(services))
    assert descendants(worker.pid) == []
    assert (await services.job(job_id)).status == CANCELLED
    assert await services.results_stored() == 0
    # The worker takes the next one.
    assert (await services.finished(SKELETON, upload)).attempt == 1
    assert 'ending="cancelled",type="skeleton"} 1.0' in worker.metrics()


async def test_a_job_that_was_cancelled_unheard_is_never_begun(
    services: JobServices, worker: ServiceProcess
) -> None:
    upload = await services.upload("hero.obj", figure_obj())
    first = await services.create(SKELETON, upload)
    session = services.session_id
    services.new_session()
    waiting = await services.create(SKELETON, f"/uploads/{services.session_id}/none.obj")
    await services.cancel(waiting)
    services.session_id = session
    await services.ended(first)
    services.new_session()
    path = await services.upload("hero.obj", figure_obj())
    await services.finished(SKELETON, path)
    assert 'ending="refused",type="skeleton"} 1.0' in worker.metrics()


async def test_a_message_that_is_no_job_does_not_stop_the_worker(services: JobServices) -> None:
    connection = await nats.connect(services.nats.url)
    await connection.jetstream().publish(subjects.run("skeleton"), b"\xff\xff\xff")
    await connection.close()
    upload = await services.upload("hero.obj", figure_obj())
    await services.finished(SKELETON, upload)


async def test_a_step_that_takes_too_long_is_stopped_and_not_tried_again(
    tmp_path: Path,
) -> None:
    async with job_services(tmp_path) as services:
        worker = services.worker(STEP_WALL_SECONDS="0.05").start()
        upload = await services.upload("hero.obj", figure_obj())
        job = await services.ended(await services.create(SKELETON, upload))
        assert (job.status, job.error_code, job.attempt) == (FAILED, "TIMEOUT", 1)
        assert descendants(worker.pid) == []
        assert 'unirig_steps_failed_total{code="TIMEOUT",step="read"} 1.0' in worker.metrics()


async def test_a_worker_may_run_several_jobs_at_once(tmp_path: Path) -> None:
    async with job_services(tmp_path) as services:
        worker = services.worker(CONCURRENCY="2").start()
        jobs = []
        for _ in range(2):
            services.new_session()
            upload = await services.upload("hero.obj", figure_obj())
            jobs.append((services.session_id, await services.create(SKELETON, upload)))
        await until(lambda: "unirig_worker_busy 2.0" in worker.metrics())
        for services.session_id, job_id in jobs:
            job = await services.ended(job_id)
            assert job.status == jobs_pb2.JOB_STATUS_COMPLETED, job
        assert worker.stop() == 0


async def test_the_worker_is_ready_only_while_storage_answers(tmp_path: Path) -> None:
    async with job_services(tmp_path) as services:
        services.storage.stop()
        worker = services.worker()
        worker.spawn()
        assert not worker.is_ready()
        services.storage.start()
        await until(worker.is_ready)
        assert worker.stop() == 0
        assert list(services.scratch.iterdir()) == []
