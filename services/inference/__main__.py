"""The inference worker: `python -m services.inference`."""

import asyncio
import contextlib

import structlog
from nats.errors import Error as NatsError

from services.common import broker
from services.common.logs import configure_logs
from services.common.metrics import serve_metrics
from services.common.process import stop_event
from services.common.tracing import tracing
from services.inference.engine import Engine, GeometricEngine
from services.inference.scratch import Scratch
from services.inference.settings import InferenceSettings
from services.inference.storage_client import StorageClient
from services.inference.triton_client import TritonClient
from services.inference.unirig_engine import UnirigEngine
from services.inference.worker import Worker

log = structlog.get_logger(__name__)

_PROBE_SECONDS = 5.0


class _Readiness:
    """Whether a job taken now could be done: asked by probes from another thread."""

    def __init__(self) -> None:
        self.storage_answers = False

    async def watch(self, storage: StorageClient) -> None:
        while True:
            self.storage_answers = await storage.is_reachable()
            await asyncio.sleep(_PROBE_SECONDS if self.storage_answers else 0.5)


def open_engine(settings: InferenceSettings) -> Engine:
    """The engine that the settings name."""
    if settings.engine == "geometric":
        return GeometricEngine()
    client = TritonClient(
        settings.triton_address,
        patience_seconds=settings.triton_patience_seconds,
        idle_seconds=settings.triton_idle_seconds,
        shared_memory=settings.triton_shared_memory,
    )
    return UnirigEngine(client, settings.triton_deadline_seconds)


async def serve(settings: InferenceSettings) -> None:
    """Runs a worker until SIGTERM."""
    stopped = stop_event()
    scratch = Scratch(settings.scratch_folder)
    storage = StorageClient(
        settings.storage_address,
        transfer_seconds=settings.transfer_seconds,
        patience_seconds=settings.storage_patience_seconds,
    )
    engine = open_engine(settings)
    readiness = _Readiness()
    watching = asyncio.create_task(readiness.watch(storage))
    connecting = asyncio.create_task(broker.connect(settings.nats_url, "inference"))
    serve_metrics(
        "inference",
        settings.bind_host,
        settings.metrics_port,
        lambda: (
            connecting.done() and connecting.result().is_connected and readiness.storage_answers
        ),
    )
    try:
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            connection = connecting.result()
            log.info("serving", engine=settings.engine, concurrency=settings.concurrency)
            await Worker(connection, storage, scratch, engine, settings).run(stopped)
            with contextlib.suppress(NatsError):
                await connection.flush(timeout=2)
            await connection.close()
    finally:
        connecting.cancel()
        watching.cancel()
        await engine.close()
        await storage.close()
        scratch.close()
    log.info("stopped")


def main() -> None:
    settings = InferenceSettings()
    configure_logs("inference", settings.log_level)
    with tracing("inference"):
        asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
