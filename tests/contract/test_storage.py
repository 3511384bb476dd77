"""The storage service over real gRPC, on a folder and on a real S3 server."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from unirig.v1 import messages_pb2, storage_pb2

from services.common.broker import connect, ensure_streams
from services.common.errors import ErrorCode, api_error_of
from services.common.subjects import JOB_DELETED, SESSION_ENDED
from tests.storage_server import (
    COMMIT,
    KIB,
    MIB,
    SERVICE,
    Client,
    S3Server,
    StorageServer,
    channel_to,
    chunks_of,
    etag_of,
    session,
)

LIMIT = 12 * MIB
# Larger than two parts of a multipart upload, and no whole number of them.
LARGE = bytes(range(256)) * (11 * MIB // 256) + b"end"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3") / "objects").start()
    yield server
    server.kill()


@pytest.fixture(scope="module", params=["filesystem", "s3"])
def settings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, nats_url: str
) -> dict[str, str]:
    """The environment of a service on the back end of this round."""
    place = (
        request.getfixturevalue("s3").settings
        if request.param == "s3"
        else {"STORAGE_FOLDER": str(tmp_path_factory.mktemp("volume"))}
    )
    return {**place, "NATS_URL": nats_url, "MAX_FILE_BYTES": str(LIMIT)}


@pytest.fixture(scope="module")
def kept_in(settings: dict[str, str], s3: S3Server) -> Path:
    """The folder in which the back end's files or objects lie."""
    return Path(settings.get("STORAGE_FOLDER", s3.folder / "rigs"))


@pytest.fixture(scope="module")
def server(
    settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StorageServer]:
    server = StorageServer(settings, tmp_path_factory.mktemp("storage") / "log").start()
    yield server
    assert server.stop() == 0
    assert '"rpc failed"' not in server.log.read_text()


@pytest.fixture(scope="module")
async def channel(server: StorageServer) -> AsyncIterator[grpc.aio.Channel]:
    async with channel_to(server) as channel:
        yield channel


@pytest.fixture
def client(channel: grpc.aio.Channel) -> Client:
    return Client(channel, session())


@pytest.fixture
def other(channel: grpc.aio.Channel) -> Client:
    return Client(channel, session())


async def refusal(call: object) -> tuple[grpc.StatusCode, ErrorCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    error = api_error_of(failure.value)
    return failure.value.code(), error.code, error.detail


async def eventually(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, condition
        await asyncio.sleep(0.05)


def files_of(kept_in: Path, client: Client) -> list[Path]:
    """Everything on disk that belongs to the session, unfinished files of all sessions too."""
    return [
        path
        for path in kept_in.rglob("*")
        if path.is_file()
        and (client.session_id in path.parts or "incoming" in path.parts or "part" in path.suffix)
    ]


@pytest.mark.parametrize("content", [b"", b"v 0 0 0\n", LARGE], ids=["empty", "small", "large"])
async def test_a_file_comes_back_as_it_went_in(client: Client, content: bytes) -> None:
    file = await client.put("model.glb", content)
    assert file.path == f"/uploads/{client.session_id}/model.glb"
    assert (file.filename, file.size) == ("model.glb", len(content))
    assert (file.mime_type, file.etag) == ("model/gltf-binary", etag_of(content))
    assert abs(file.created_at.ToDatetime(UTC) - datetime.now(UTC)).total_seconds() < 60
    assert not file.HasField("lineage")
    assert await client.get(file.path) == (file, content)
    assert await client.stat(file.path) == file


@pytest.mark.parametrize(
    ("offset", "length", "wanted"),
    [
        (0, 0, LARGE),
        (0, 1, LARGE[:1]),
        (5 * MIB - 1, 2, LARGE[5 * MIB - 1 : 5 * MIB + 1]),
        (len(LARGE) - 3, 0, b"end"),
        (len(LARGE) - 1, 100, b"d"),
    ],
)
async def test_any_part_of_a_file_can_be_read(
    client: Client, offset: int, length: int, wanted: bytes
) -> None:
    file = await client.put("model.obj", LARGE)
    assert await client.get(file.path, offset, length) == (file, wanted)


async def test_a_part_that_begins_past_the_end_is_not_satisfiable(client: Client) -> None:
    file = await client.put("model.obj", b"1234")
    for offset in (4, 5, 2**62):
        status, code, _ = await refusal(client.get(file.path, offset))
        assert (status, code) == (
            grpc.StatusCode.OUT_OF_RANGE,
            ErrorCode.RANGE_NOT_SATISFIABLE,
        )
    for offset, length in ((-1, 0), (0, -1)):
        _, code, _ = await refusal(client.get(file.path, offset, length))
        assert code is ErrorCode.INVALID_REQUEST


async def test_a_results_lineage_outlives_the_service(
    settings: dict[str, str], tmp_path: Path
) -> None:
    server = StorageServer(settings, tmp_path / "log").start()
    session_id = session()
    lineage = {
        "job_id": "job-1",
        "stage": "skeleton",
        "asset_path": f"/uploads/{session_id}/Öl-🦒.obj",
        "arrays_path": f"/results/{session_id}/{'a' * 250}.npz",
    }
    async with channel_to(server) as channel:
        file = await Client(channel, session_id).put("skeleton.fbx", b"FBX", **lineage)
    assert file.path == f"/results/{session_id}/skeleton.fbx"
    assert file.lineage == storage_pb2.Lineage(**lineage)
    server.kill()
    server.start()
    async with channel_to(server) as channel:
        assert await Client(channel, session_id).get(file.path) == (file, b"FBX")
    assert server.stop() == 0


async def test_the_same_name_again_never_overwrites(client: Client) -> None:
    files = [await client.put("model.obj", str(number).encode()) for number in range(3)]
    assert [file.filename for file in files] == ["model.obj", "model-2.obj", "model-3.obj"]
    for number, file in enumerate(files):
        assert (await client.get(file.path))[1] == str(number).encode()


async def test_uploads_of_one_name_at_the_same_time_all_stay(client: Client) -> None:
    contents = [str(number).encode() * 100 for number in range(12)]
    files = await asyncio.gather(*(client.put("model.obj", content) for content in contents))
    assert len({file.path for file in files}) == len(files)
    assert [(await client.get(file.path))[1] for file in files] == contents


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("../../../etc/passwd", "passwd"),
        ("C:\\rigs\\model.obj", "model.obj"),
        ("..", "model"),
        ("", "model"),
        ("a'b\"$(id);\n.obj", "a'b_$(id);_.obj"),
        ("100%25 ?&#+=é.obj", "100_25 _&#+=é.obj"),
        ("🦒 giraffe.fbx", "🦒 giraffe.fbx"),
        ("x" * 300 + ".obj", "x" * 251 + ".obj"),
    ],
)
async def test_any_name_becomes_a_safe_one(
    client: Client, kept_in: Path, name: str, stored: str
) -> None:
    file = await client.put(name, b"bytes")
    assert file.path == f"/uploads/{client.session_id}/{stored}"
    assert await client.get(file.path) == (file, b"bytes")
    assert [path.name for path in files_of(kept_in, client) if "uploads" in path.parts] == [stored]
    again = await client.put(name, b"other")
    assert len(again.filename.encode()) <= 255
    assert await client.get(again.path) == (again, b"other")


async def test_a_later_attempt_replaces_its_jobs_result_and_no_other_jobs(client: Client) -> None:
    first = await client.put("model_skeleton.obj", b"first attempt", job_id="job-1")
    other = await client.put("model_skeleton.obj", LARGE, job_id="job-2")
    assert other.filename == "model_skeleton-2.obj"
    second = await client.put("model_skeleton.obj", b"second", job_id="job-1")
    other_again = await client.put("model_skeleton.obj", b"again", job_id="job-2")
    assert (second.path, other_again.path) == (first.path, other.path)
    assert await client.get(first.path) == (second, b"second")
    assert await client.get(other.path) == (other_again, b"again")
    assert await client.usage() == (0, 2, len(b"second") + len(b"again"))


async def test_a_file_of_exactly_the_limit_is_taken(client: Client) -> None:
    assert (await client.put("model.obj", bytes(LIMIT))).size == LIMIT


async def test_a_larger_upload_is_refused_at_once_and_leaves_nothing(
    client: Client, kept_in: Path
) -> None:
    sent = 0
    call = client.stub.PutFile()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.write(client.header("model.obj"))
        # Never half-closed: the answer comes while the client would still send.
        for chunk in chunks_of(bytes(LIMIT + MIB)):
            await call.write(storage_pb2.PutFileRequest(chunk=chunk))
            sent += len(chunk)
        await call
    error = api_error_of(failure.value)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.code is ErrorCode.FILE_TOO_LARGE
    assert error.detail == "File size exceeds maximum allowed size of 12MB"
    assert await client.usage() == (0, 0, 0)
    assert files_of(kept_in, client) == []


async def test_a_result_may_be_larger_than_an_upload(client: Client) -> None:
    content = bytes(LIMIT + 1)
    assert (await client.put("model_rigged.fbx", content, job_id="job-1")).size == len(content)


@pytest.mark.parametrize("chunks", [0, 1, 8])
async def test_a_cancelled_upload_leaves_nothing(
    client: Client, kept_in: Path, chunks: int
) -> None:
    for _ in range(10):
        call = client.stub.PutFile()
        await call.write(client.header("model.obj"))
        for _ in range(chunks):
            await call.write(storage_pb2.PutFileRequest(chunk=bytes(MIB)))
        call.cancel()

    async def nothing_is_left() -> bool:
        return not files_of(kept_in, client)

    await eventually(nothing_is_left)
    assert await client.usage() == (0, 0, 0)


async def test_another_sessions_file_is_not_found_as_if_it_did_not_exist(
    client: Client, other: Client
) -> None:
    file = await client.put("model.obj", b"mine")
    absent = f"/uploads/{other.session_id}/model.obj"
    assert await refusal(other.stat(file.path)) == await refusal(other.stat(absent))
    assert await refusal(other.get(file.path)) == await refusal(other.get(absent))
    status, code, _ = await refusal(other.get(file.path))
    assert (status, code) == (grpc.StatusCode.NOT_FOUND, ErrorCode.FILE_NOT_FOUND)


async def test_no_path_leads_out_of_the_session(client: Client, other: Client) -> None:
    file = await client.put("model.obj", b"mine")
    mine, theirs = client.session_id, other.session_id
    for path in (
        "",
        "/",
        "model.obj",
        f"/uploads/{theirs}/../{mine}/model.obj",
        f"/uploads/{theirs}/..%2f{mine}%2fmodel.obj",
        f"/uploads/{mine}/../{mine}/model.obj",
        f"/uploads/{mine}//model.obj",
        f"/uploads/{mine}",
        f"/uploads/{mine}/",
        f"/uploads/{mine}/.",
        f"/uploads/{mine}/model.obj/",
        f"/uploads/{mine}/model.obj\x00",
        f"/results/{mine}/model.obj",
        f"/data/{mine}/model.obj",
        f"/incoming/{mine}/model.obj",
        f"/ended/{mine}",
        "/names.lock",
        "/etc/passwd",
    ):
        for who in (client, other):
            _, code, _ = await refusal(who.get(path))
            assert code is ErrorCode.FILE_NOT_FOUND, path
    # A client may take the cookie's whole value for the session's id.
    assert (await client.stat(f"/uploads/{mine}.secret/model.obj")) == file


async def test_what_is_not_as_agreed_is_refused(client: Client) -> None:
    header, chunk = client.header("model.obj"), storage_pb2.PutFileRequest(chunk=b"x")
    no_area, bad_session, no_job, foreign = (storage_pb2.PutFileRequest() for _ in range(4))
    no_area.header.session_id = client.session_id
    bad_session.header.CopyFrom(
        storage_pb2.PutFileHeader(session_id="../x", area=storage_pb2.AREA_UPLOADS)
    )
    no_job.CopyFrom(client.header("a.fbx", {"stage": "merge"}))
    foreign.CopyFrom(
        client.header("a.fbx", {"job_id": "j", "asset_path": f"/uploads/{session()}/model.obj"})
    )
    for messages in (
        [],
        [chunk],
        [header, chunk],
        [header, chunk, header],
        [header, COMMIT, chunk],
        [header, storage_pb2.PutFileRequest()],
        [no_area],
        [bad_session],
        [no_job],
        [foreign],
    ):
        status, code, _ = await refusal(client.stub.PutFile(iter(messages)))
        assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, ErrorCode.INVALID_REQUEST)
    for session_id in ("", "x", "../" + client.session_id, client.session_id.upper() + "G"):
        stranger = client.of_session(session_id)
        assert (await refusal(stranger.usage()))[1] is ErrorCode.INVALID_REQUEST
        assert (await refusal(stranger.delete_session()))[1] is ErrorCode.INVALID_REQUEST
        assert (await refusal(stranger.delete_job("job-1")))[1] is ErrorCode.INVALID_REQUEST
    assert (await refusal(client.delete_job("")))[1] is ErrorCode.INVALID_REQUEST
    assert await client.usage() == (0, 0, 0)


async def test_usage_counts_both_areas_of_one_session(client: Client, other: Client) -> None:
    await other.put("model.obj", b"not counted")
    assert await client.usage() == (0, 0, 0)
    await client.put("model.obj", b"12345")
    await client.put("model.obj", b"123")
    await client.put("model_skeleton.obj", b"12", job_id="job-1")
    assert await client.usage() == (2, 1, 10)


async def test_deleting_a_job_takes_its_results_and_nothing_else(client: Client) -> None:
    upload = await client.put("model.obj", b"upload")
    await client.put("model_skeleton.obj", b"12", job_id="job-1")
    await client.put("model_skeleton.fbx", b"345", job_id="job-1")
    kept = await client.put("model_rigged.fbx", b"kept", job_id="job-10")
    assert await client.delete_job("job-1") == (2, 5)
    assert await client.delete_job("job-1") == (0, 0)
    assert await client.usage() == (1, 1, 10)
    assert await client.get(upload.path) == (upload, b"upload")
    assert await client.get(kept.path) == (kept, b"kept")


async def test_an_ended_session_leaves_nothing_and_gets_no_new_files(
    client: Client, other: Client, kept_in: Path
) -> None:
    untouched = await other.put("model.obj", b"theirs")
    files = [
        await client.put("model.obj", b"12345"),
        await client.put("model_skeleton.obj", b"678", job_id="job-1"),
    ]
    assert await client.delete_session() == (2, 8)
    assert await client.delete_session() == (0, 0)
    for file in files:
        assert (await refusal(client.get(file.path)))[1] is ErrorCode.FILE_NOT_FOUND
    for lineage in ({}, {"job_id": "job-1"}):
        status, code, _ = await refusal(client.put("late.obj", b"late", **lineage))
        assert (status, code) == (grpc.StatusCode.NOT_FOUND, ErrorCode.SESSION_NOT_FOUND)
    assert await client.usage() == (0, 0, 0)
    assert [path for path in files_of(kept_in, client) if "ended" not in path.parts] == []
    assert await other.get(untouched.path) == (untouched, b"theirs")


async def test_a_write_that_its_sessions_end_overtakes_is_refused(
    client: Client, kept_in: Path
) -> None:
    call = client.stub.PutFile()
    await call.write(client.header("late.obj", {"job_id": "job-1"}))
    for chunk in chunks_of(LARGE):
        await call.write(storage_pb2.PutFileRequest(chunk=chunk))
    await client.delete_session()
    await call.write(COMMIT)
    await call.done_writing()
    assert (await refusal(call))[1] is ErrorCode.SESSION_NOT_FOUND
    assert [path for path in files_of(kept_in, client) if "ended" not in path.parts] == []


@pytest.mark.parametrize("change", ["replaced", "deleted"])
async def test_a_reader_keeps_the_bytes_it_began_with(client: Client, change: str) -> None:
    content = LARGE + LARGE
    file = await client.put("model_rigged.fbx", content, job_id="job-1")
    request = storage_pb2.GetFileRequest(session_id=client.session_id, path=file.path)
    reading = client.stub.GetFile(request)
    responses = [await reading.read(), await reading.read()]
    if change == "replaced":
        await client.put("model_rigged.fbx", b"new", job_id="job-1")
    else:
        await client.delete_job("job-1")
    while (response := await reading.read()) is not grpc.aio.EOF:
        responses.append(response)
    assert responses[0].file == file
    assert b"".join(response.chunk for response in responses[1:]) == content


async def test_abandoned_downloads_hold_no_file_open(
    client: Client, server: StorageServer, channel: grpc.aio.Channel
) -> None:
    file = await client.put("model.obj", LARGE)

    def open_files() -> int:
        return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))

    request = storage_pb2.GetFileRequest(session_id=client.session_id, path=file.path)
    before = open_files()
    for _ in range(30):
        reading = client.stub.GetFile(request)
        await reading.read()
        reading.cancel()

    async def all_closed() -> bool:
        return open_files() <= before + 3

    await eventually(all_closed)


async def test_space_adds_up_and_shows_the_references_thresholds(client: Client) -> None:
    space = await client.space()
    assert space.used + space.free == space.total > 0
    assert (space.warning_threshold_gb, space.critical_threshold_gb) == (10, 5)
    assert space.status in (
        storage_pb2.DISK_STATUS_OK,
        storage_pb2.DISK_STATUS_WARNING,
        storage_pb2.DISK_STATUS_CRITICAL,
    )


async def test_on_a_critical_disk_uploads_are_refused_and_all_else_goes_on(
    settings: dict[str, str], client: Client, tmp_path: Path
) -> None:
    file = await client.put("model.obj", b"from before")
    critical = {"DISK_WARNING_GB": "9000000", "DISK_CRITICAL_GB": "9000000"}
    server = StorageServer({**settings, **critical}, tmp_path / "log").start()
    async with channel_to(server) as channel:
        tight = Client(channel, client.session_id)
        assert (await tight.space()).status == storage_pb2.DISK_STATUS_CRITICAL
        # Of small and of large ones: no client that is still sending misses the answer.
        puts = [tight.put("model.obj", bytes(size * MIB + 1)) for size in (0, 3, 10, 10, 10)]
        for put in puts:
            status, code, _ = await refusal(put)
            assert (status, code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, ErrorCode.STORAGE_FULL)
        assert await tight.get(file.path) == (file, b"from before")
        await tight.put("model_skeleton.obj", b"a running job ends", job_id="job-1")
        assert await tight.delete_session() == (2, 29)
    assert server.stop() == 0


async def test_events_delete_what_has_ended(client: Client, other: Client, nats_url: str) -> None:
    await client.put("model.obj", b"1")
    await other.put("model.obj", b"upload")
    await other.put("model_skeleton.obj", b"result", job_id="job-1")
    connection = await connect(nats_url, "test")
    jetstream = await ensure_streams(connection, 1)
    ended = messages_pb2.SessionEnded(session_id=client.session_id)
    deleted = messages_pb2.JobDeleted(session_id=other.session_id, job_id="job-1")
    # What nobody can read must not stop what follows.
    await jetstream.publish(SESSION_ENDED, b"\xff\xff")
    await jetstream.publish(SESSION_ENDED, messages_pb2.SessionEnded().SerializeToString())
    await jetstream.publish(SESSION_ENDED, ended.SerializeToString())
    await jetstream.publish(JOB_DELETED, deleted.SerializeToString())

    async def both_are_gone() -> bool:
        return (await client.usage(), await other.usage()) == ((0, 0, 0), (1, 0, 6))

    await eventually(both_are_gone)
    assert (await refusal(client.put("late.obj", b"x")))[1] is ErrorCode.SESSION_NOT_FOUND
    await connection.close()


async def test_health_readiness_and_metrics_are_told(
    client: Client, server: StorageServer, channel: grpc.aio.Channel
) -> None:
    await client.get((await client.put("model.obj", bytes(300 * KIB))).path)
    health = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert (server.probe("/healthz"), server.probe("/readyz")) == (200, 200)
    metrics = server.metrics()
    for name in (
        'unirig_storage_written_bytes_total{area="uploads"}',
        'unirig_storage_read_bytes_total{area="uploads"}',
        'unirig_storage_files_written_total{area="uploads"}',
        "unirig_storage_files_deleted_total",
        "unirig_storage_disk_free_bytes",
        "unirig_storage_disk_used_bytes",
        "unirig_rpc_refusals_total",
    ):
        assert name in metrics


async def test_a_request_in_progress_survives_sigterm(
    settings: dict[str, str], tmp_path: Path
) -> None:
    server = StorageServer(settings, tmp_path / "log").start()
    async with channel_to(server) as channel:
        client = Client(channel, session())
        call = client.stub.PutFile()
        await call.write(client.header("model.obj"))
        await call.write(storage_pb2.PutFileRequest(chunk=b"first "))
        begun = 'transfers_in_progress{direction="in"} 1.0'
        await eventually(lambda: asyncio.to_thread(lambda: begun in server.metrics()))
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        await eventually(lambda: asyncio.to_thread(lambda: server.probe("/readyz") != 200))
        await call.write(storage_pb2.PutFileRequest(chunk=b"last"))
        await call.write(COMMIT)
        await call.done_writing()
        assert (await call).file.size == len(b"first last")
    assert await stopping == 0
