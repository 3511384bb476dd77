"""The jobs service's process: `python -m services.jobs`."""

import asyncio

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from unirig.v1 import jobs_pb2_grpc

from services.common import broker
from services.common.logs import configure_logs
from services.common.metrics import serve_metrics
from services.common.process import stop_event
from services.common.rpc import RpcServer
from services.common.tracing import tracing
from services.jobs.events import Events
from services.jobs.exporter import Exporter
from services.jobs.lifecycle import JobLifecycle
from services.jobs.notices import Notices
from services.jobs.outbox import Outbox
from services.jobs.queue import ensure_queue
from services.jobs.service import JobsServicer
from services.jobs.settings import JobsSettings
from services.jobs.store import JobStore, connect_redis
from services.jobs.sweeper import Sweeper

SERVICE_NAME = "unirig.v1.JobsService"
log = structlog.get_logger(__name__)


async def serve(settings: JobsSettings) -> None:
    """Serves until SIGTERM or SIGINT, then lets calls and events in progress end."""
    stopped = stop_event()
    redis = connect_redis(settings.redis_url.get_secret_value())
    store = JobStore(redis, settings.patience_ms)
    readiness = Readiness(store)
    serve_metrics("jobs", settings.bind_host, settings.metrics_port, lambda: readiness.ready)

    connection = await open_queue(settings, stopped)
    if connection is None:
        return
    outbox = Outbox(store, connection)
    lifecycle = JobLifecycle(store, outbox, Notices(connection))
    events = Events(connection, store, lifecycle, settings)
    exporter = Exporter(connection, redis)
    sweeper = Sweeper(connection, store, outbox, lifecycle, settings)
    server = RpcServer(settings.bind_host, settings.grpc_port)
    jobs_pb2_grpc.add_JobsServiceServicer_to_server(JobsServicer(store, lifecycle), server.server)

    await events.subscribe()
    async with asyncio.TaskGroup() as group:
        group.create_task(events.consume(stopped), name="events")
        group.create_task(sweeper.run(stopped), name="sweeper")
        group.create_task(exporter.run(stopped), name="exporter")
        group.create_task(readiness.watch(connection, server, stopped), name="readiness")
        await server.start([SERVICE_NAME])
        await stopped.wait()
        await server.stop(settings.shutdown_grace_seconds)
    await (connection.drain() if connection.is_connected else connection.close())
    await redis.aclose()
    log.info("stopped")


async def open_queue(settings: JobsSettings, stopped: asyncio.Event) -> Client | None:
    """NATS with its streams and consumers in place, however long that takes; None if stopped."""
    stopping = asyncio.create_task(stopped.wait())
    opening = asyncio.create_task(_open_queue(settings))
    await asyncio.wait({stopping, opening}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if opening.done():
        return opening.result()
    opening.cancel()
    return None


async def _open_queue(settings: JobsSettings) -> Client:
    connection = await broker.connect(settings.nats_url, "jobs")
    while True:
        try:
            await ensure_queue(connection, settings)
            return connection
        except (TimeoutError, NatsError) as error:
            log.warning("waiting for jetstream", error=type(error).__name__)
            await asyncio.sleep(1)


class Readiness:
    """Whether this replica can do its work, as of a second ago."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self.ready = False

    async def watch(self, connection: Client, server: RpcServer, stopped: asyncio.Event) -> None:
        """Looks every second until stopped."""
        while not stopped.is_set():
            self.ready = server.ready and connection.is_connected and await self._store.answers()
            try:
                await asyncio.wait_for(stopped.wait(), 0.2 if not self.ready else 1)
            except TimeoutError:
                continue
        self.ready = False


def main() -> None:
    settings = JobsSettings()
    configure_logs("jobs", settings.log_level)
    with tracing("jobs"):
        asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
