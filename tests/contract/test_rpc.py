"""What every service's gRPC server and its callers rely on."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from unirig.v1 import jobs_pb2, jobs_pb2_grpc, storage_pb2, storage_pb2_grpc

from services.common.errors import ApiError, ErrorCode, api_error_of
from services.common.rpc import RpcServer, open_channel
from services.inference.triton_client import CHANNEL as TRITON_CHANNEL
from tests.jobs_system import eventually

JOBS = "unirig.v1.JobsService"
STORAGE = "unirig.v1.StorageService"
# Of a connection, where a test waits for its end, seconds.
SHORT_AGE = 0.3


class Refusing(jobs_pb2_grpc.JobsServiceServicer):
    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Any) -> Any:
        raise ApiError(ErrorCode.JOB_NOT_FOUND, "No such job", {"job_id": request.job_id})

    async def ListJobs(self, request: Any, context: Any) -> Any:
        raise RuntimeError("password=hunter2 at 10.0.0.7")


class Streaming(storage_pb2_grpc.StorageServiceServicer):
    async def GetFile(self, request: Any, context: Any) -> Any:
        yield storage_pb2.GetFileResponse(chunk=b"first")
        raise ApiError(ErrorCode.FILE_NOT_FOUND, "Gone")


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    server = RpcServer("127.0.0.1", 0)
    jobs_pb2_grpc.add_JobsServiceServicer_to_server(Refusing(), server.server)
    storage_pb2_grpc.add_StorageServiceServicer_to_server(Streaming(), server.server)
    port = await server.start([JOBS])
    async with open_channel(f"127.0.0.1:{port}", JOBS, ["GetJob"]) as channel:
        yield channel
    await server.stop(0)


async def test_a_refusal_reaches_the_caller_with_its_code_text_and_facts(channel: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await jobs_pb2_grpc.JobsServiceStub(channel).GetJob(jobs_pb2.GetJobRequest(job_id="7"))
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    error = api_error_of(failure.value)
    assert (error.code, error.detail) == (ErrorCode.JOB_NOT_FOUND, "No such job")
    assert error.metadata == {"job_id": "7"}


async def test_an_unforeseen_failure_says_nothing_of_its_cause(channel: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await jobs_pb2_grpc.JobsServiceStub(channel).ListJobs(jobs_pb2.ListJobsRequest())
    assert failure.value.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(failure.value)
    assert api_error_of(failure.value).code is ErrorCode.INTERNAL_ERROR


async def test_a_stream_may_be_refused_after_it_began(channel: Any) -> None:
    stream = storage_pb2_grpc.StorageServiceStub(channel).GetFile(storage_pb2.GetFileRequest())
    received = []
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for response in stream:
            received.append(response.chunk)
    assert received == [b"first"]
    assert api_error_of(failure.value).code is ErrorCode.FILE_NOT_FOUND


async def test_a_call_that_its_caller_gives_up_ends_on_the_server_too() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    class Waiting(jobs_pb2_grpc.JobsServiceServicer):
        async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Any) -> Any:
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

    server = RpcServer("127.0.0.1", 0)
    jobs_pb2_grpc.add_JobsServiceServicer_to_server(Waiting(), server.server)
    port = await server.start([JOBS])

    async def call(channel: grpc.aio.Channel) -> None:
        await jobs_pb2_grpc.JobsServiceStub(channel).GetJob(jobs_pb2.GetJobRequest())

    async with open_channel(f"127.0.0.1:{port}", JOBS, []) as channel:
        calling = asyncio.create_task(call(channel))
        await begun.wait()
        calling.cancel()
        await asyncio.wait_for(ended.wait(), 10)
    await server.stop(0)


async def test_health_answers_for_the_server_and_for_each_service(channel: Any) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", JOBS):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_service_that_is_down_is_unavailable_and_names_no_address() -> None:
    async with open_channel("127.0.0.1:1", JOBS, []) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await jobs_pb2_grpc.JobsServiceStub(channel).GetJob(jobs_pb2.GetJobRequest(), timeout=2)
    error = api_error_of(failure.value)
    assert error.code is ErrorCode.SERVICE_UNAVAILABLE
    assert "127.0.0.1" not in error.detail


class Telling(jobs_pb2_grpc.JobsServiceServicer):
    """Tells callers which server answers, and on which connection."""

    def __init__(self, name: str = "") -> None:
        self._name = name

    async def CreateJob(self, request: Any, context: Any) -> jobs_pb2.CreateJobResponse:
        await asyncio.sleep(0.01)
        return jobs_pb2.CreateJobResponse(
            job=jobs_pb2.Job(job_id=context.peer(), session_id=self._name)
        )


class Slow(storage_pb2_grpc.StorageServiceServicer):
    """Streams for several ages of a connection."""

    async def GetFile(self, request: Any, context: Any) -> Any:
        for _ in range(10):
            await asyncio.sleep(SHORT_AGE / 2)
            yield storage_pb2.GetFileResponse(chunk=b"x")

    async def PutFile(self, request_iterator: Any, context: Any) -> storage_pb2.PutFileResponse:
        size = 0
        async for request in request_iterator:
            size += len(request.chunk)
        return storage_pb2.PutFileResponse(file=storage_pb2.FileInfo(size=size))


@asynccontextmanager
async def telling_server(
    name: str = "", host: str = "127.0.0.1", port: int = 0, age: float = SHORT_AGE
) -> AsyncIterator[int]:
    """The port of a server whose connections get so old, seconds."""
    server = RpcServer(host, port, connection_seconds=age)
    jobs_pb2_grpc.add_JobsServiceServicer_to_server(Telling(name), server.server)
    storage_pb2_grpc.add_StorageServiceServicer_to_server(Slow(), server.server)
    yield await server.start([JOBS, STORAGE])
    await server.stop(0)


async def test_old_connections_end_and_no_call_fails_of_it() -> None:
    connections = set()
    end = time.monotonic() + 10 * SHORT_AGE

    async with (
        telling_server() as port,
        # Without retries, as a job is created.
        open_channel(f"127.0.0.1:{port}", JOBS, []) as channel,
    ):

        async def call() -> None:
            stub = jobs_pb2_grpc.JobsServiceStub(channel)
            while time.monotonic() < end:
                answer = await stub.CreateJob(jobs_pb2.CreateJobRequest(), timeout=5)
                connections.add(answer.job.job_id)

        await asyncio.gather(*(call() for _ in range(8)))
    assert len(connections) >= 4


async def test_a_download_and_an_upload_outlive_the_age_of_their_connection() -> None:
    async with (
        telling_server() as port,
        open_channel(f"127.0.0.1:{port}", STORAGE, []) as channel,
    ):
        stub = storage_pb2_grpc.StorageServiceStub(channel)

        async def download() -> int:
            stream = stub.GetFile(storage_pb2.GetFileRequest(), timeout=60)
            return len([part async for part in stream])

        async def upload() -> int:
            call = stub.PutFile(timeout=60)
            for _ in range(10):
                await call.write(storage_pb2.PutFileRequest(chunk=b"x"))
                await asyncio.sleep(SHORT_AGE / 2)
            await call.done_writing()
            return int((await call).file.size)

        assert await asyncio.gather(download(), upload()) == [10, 10]


async def test_calls_go_to_all_replicas_of_a_service_in_turn() -> None:
    async with telling_server("one", age=60) as one, telling_server("two", age=60) as two:
        address = f"ipv4:127.0.0.1:{one},127.0.0.1:{two}"
        async with open_channel(address, JOBS, []) as channel:
            stub = jobs_pb2_grpc.JobsServiceStub(channel)
            while await _answering(stub) != "one" or await _answering(stub) != "two":
                pass  # until it is connected to both
            assert [await _answering(stub) for _ in range(4)] == ["one", "two", "one", "two"]


async def test_a_client_of_triton_stays_with_one_replica_of_many() -> None:
    async with telling_server("one", age=60) as one, telling_server("two", age=60) as two:
        address = f"ipv4:127.0.0.1:{one},127.0.0.1:{two}"
        chosen = set()
        for _ in range(20):
            async with grpc.aio.insecure_channel(address, options=TRITON_CHANNEL) as channel:
                stub = jobs_pb2_grpc.JobsServiceStub(channel)
                (replica,) = {await _answering(stub) for _ in range(5)}
                chosen.add(replica)
    assert chosen == {"one", "two"}


async def test_clients_find_replicas_that_start_after_them(names: "Names") -> None:
    """Within seconds, where gRPC itself would look a name up again after half a minute."""
    async with telling_server("one") as port, telling_server("two", "127.0.0.2", port):
        names.addresses = ["127.0.0.1"]
        address = f"dns://127.0.0.1:{names.port}/replicas.test:{port}"
        async with (
            open_channel(address, JOBS, []) as balancing,
            grpc.aio.insecure_channel(address, options=TRITON_CHANNEL) as choosing,
        ):
            stubs = [jobs_pb2_grpc.JobsServiceStub(channel) for channel in (balancing, choosing)]
            assert [await _answering(stub) for stub in stubs] == ["one", "one"]
            names.addresses = ["127.0.0.1", "127.0.0.2"]
            await asyncio.gather(*(_call_until_answered_by("two", stub) for stub in stubs))


class Names(asyncio.DatagramProtocol):
    """A name server that has the same addresses for every name; none of IPv6."""

    addresses: ClassVar[list[str]] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        question = data[12 : data.index(b"\0", 12) + 5]
        wants_ipv4 = question[-4:-2] == b"\0\1"
        addresses = self.addresses if wants_ipv4 else []
        head = data[:2] + struct.pack("!5H", 0x8400, 1, len(addresses), 0, 0)
        records = [
            struct.pack("!3HIH4s", 0xC00C, 1, 1, 0, 4, socket.inet_aton(address))
            for address in addresses
        ]
        self._transport.sendto(head + question + b"".join(records), addr)


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    loop = asyncio.get_running_loop()
    transport, names = await loop.create_datagram_endpoint(Names, ("127.0.0.1", 0))
    yield names
    transport.close()


async def _call_until_answered_by(name: str, stub: Any) -> None:
    async def is_answered() -> bool:
        return await _answering(stub) == name

    await eventually(is_answered, seconds=90)


async def _answering(stub: Any) -> str:
    """The name of the server that answers a call."""
    answer = await stub.CreateJob(jobs_pb2.CreateJobRequest(), timeout=5)
    return str(answer.job.session_id)
