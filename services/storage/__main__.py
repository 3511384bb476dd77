"""python -m services.storage"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from unirig.v1 import storage_pb2_grpc

from services.common.logs import configure_logs
from services.common.metrics import serve_metrics
from services.common.process import stop_event
from services.common.rpc import RpcServer
from services.common.tracing import tracing
from services.storage.back_end import BackEnd
from services.storage.events import apply_events
from services.storage.filesystem import FilesystemBackEnd
from services.storage.s3 import open_s3
from services.storage.service import StorageService
from services.storage.settings import StorageSettings
from services.storage.upkeep import sweep_regularly, watch_regularly

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_back_end(settings: StorageSettings) -> AsyncIterator[BackEnd]:
    if settings.storage_backend == "s3":
        async with open_s3(settings) as back_end:
            yield back_end
    else:
        yield FilesystemBackEnd(settings.storage_folder)


async def main() -> None:
    settings = StorageSettings()
    configure_logs("storage", settings.log_level)
    stopped = stop_event()
    async with open_back_end(settings) as back_end, asyncio.TaskGroup() as background:
        server = RpcServer(settings.bind_host, settings.grpc_port)
        storage_pb2_grpc.add_StorageServiceServicer_to_server(
            StorageService(back_end, settings), server.server
        )
        await server.start(["unirig.v1.StorageService"])
        # Not before the back end has answered.
        await server.set_ready(False)
        serve_metrics("storage", settings.bind_host, settings.metrics_port, lambda: server.ready)
        watching = background.create_task(watch_regularly(back_end, server))
        sweeping = background.create_task(sweep_regularly(back_end))
        applying = background.create_task(
            apply_events(settings.nats_url, settings.nats_replicas, back_end)
        )
        await stopped.wait()
        log.info("stopping")
        # First, as it would call the service ready again.
        await _end(watching)
        await server.stop(settings.shutdown_grace_seconds)
        await _end(sweeping)
        await _end(applying)


async def _end(task: "asyncio.Task[None]") -> None:
    while not task.done():
        # Again and again: Python 3.11's wait_for, which nats-py uses, may swallow a cancellation.
        task.cancel()
        await asyncio.wait([task], timeout=1)


if __name__ == "__main__":
    with tracing("storage"):
        asyncio.run(main())
