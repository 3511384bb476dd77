"""What every service's gRPC server and its callers rely on."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from unirig.v1 import jobs_pb2, jobs_pb2_grpc, storage_pb2, storage_pb2_grpc

from services.common.errors import ApiError, ErrorCode, api_error_of
from services.common.rpc import RpcServer, open_channel

JOBS = "unirig.v1.JobsService"


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
