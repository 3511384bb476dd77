"""The three services behind the gateway, and one way to call them."""

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from unirig.v1.jobs_pb2_grpc import JobsServiceStub
from unirig.v1.sessions_pb2_grpc import SessionsServiceStub
from unirig.v1.storage_pb2_grpc import StorageServiceStub

from services.common.errors import ApiError, ErrorCode, api_error_of
from services.common.rpc import open_channel
from services.gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

SESSIONS = "unirig.v1.SessionsService"
JOBS = "unirig.v1.JobsService"
STORAGE = "unirig.v1.StorageService"

# A service that takes longer to say that it is well is not.
_HEALTH_SECONDS = 2.0

_Request = TypeVar("_Request", contravariant=True)
_Response = TypeVar("_Response", covariant=True)


class _Method(Protocol[_Request, _Response]):
    def __call__(self, request: _Request, *, timeout: float) -> Awaitable[_Response]: ...


class Backends:
    """Channels and stubs of sessions, jobs and storage. Made inside the running event loop."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._timeout = settings.rpc_timeout_seconds
        self._channels = {
            SESSIONS: open_channel(
                settings.sessions_address, SESSIONS, ["Authorize", "GetSession", "DeleteSession"]
            ),
            JOBS: open_channel(settings.jobs_address, JOBS, ["GetJob", "ListJobs", "CountJobs"]),
            STORAGE: open_channel(
                settings.storage_address,
                STORAGE,
                [
                    "GetFile",
                    "StatFile",
                    "GetUsage",
                    "GetDiskSpace",
                    "DeleteJobFiles",
                    "DeleteSessionFiles",
                ],
            ),
        }
        self.sessions = SessionsServiceStub(self._channels[SESSIONS])
        self.jobs = JobsServiceStub(self._channels[JOBS])
        self.storage = StorageServiceStub(self._channels[STORAGE])

    async def call(self, method: _Method[_Request, _Response], request: _Request) -> _Response:
        """One unary call with the deadline; ApiError where it fails."""
        try:
            return await method(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as failure:
            raise explained(failure) from None

    async def all_serving(self) -> bool:
        """Whether every service says, by gRPC health, that it serves."""
        return all(await asyncio.gather(*(self._serving(name) for name in self._channels)))

    async def _serving(self, service: str) -> bool:
        stub = health_pb2_grpc.HealthStub(self._channels[service])
        try:
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(service=service), timeout=_HEALTH_SECONDS
            )
        except grpc.aio.AioRpcError as failure:
            log.warning("service not healthy", peer=service, code=failure.code().name)
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


def explained(failure: grpc.aio.AioRpcError) -> ApiError:
    """The ApiError behind a failed call; what stays unexplained to the client goes to the log."""
    error = api_error_of(failure)
    if error.code in (ErrorCode.SERVICE_UNAVAILABLE, ErrorCode.INTERNAL_ERROR):
        log.warning("rpc failed", code=failure.code().name, reason=failure.details())
    return error
