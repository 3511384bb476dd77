"""What callers hear from a server that stops."""

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.cli.servers import free_port
from services.common.errors import ErrorCode, api_error_of
from services.common.rpc import RpcServer, open_channel

HOST, SERVICE = "127.0.0.1", "unirig.v1.JobsService"


async def test_calls_that_meet_a_server_as_it_stops_learn_that_it_is_away() -> None:
    port = free_port()
    server = RpcServer(HOST, port)
    await server.start([SERVICE])
    failures: list[grpc.aio.AioRpcError] = []
    async with open_channel(f"{HOST}:{port}", SERVICE, []) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def call_until_refused() -> None:
            try:
                while True:
                    await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10)
            except grpc.aio.AioRpcError as failure:
                failures.append(failure)

        callers = [asyncio.create_task(call_until_refused()) for _ in range(20)]
        await asyncio.sleep(0.2)
        await server.stop(grace_seconds=2)
        await asyncio.gather(*callers)
    assert {api_error_of(failure).code for failure in failures} == {ErrorCode.SERVICE_UNAVAILABLE}
