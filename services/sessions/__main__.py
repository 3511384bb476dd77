"""The sessions service as a process: python -m services.sessions."""

import asyncio

import structlog
from nats.errors import Error as NatsError
from unirig.v1 import sessions_pb2_grpc

from services.common.broker import connect, ensure_streams
from services.common.errors import ApiError
from services.common.logs import configure_logs
from services.common.metrics import serve_metrics
from services.common.process import stop_event
from services.common.rpc import RpcServer
from services.common.tracing import tracing
from services.sessions.ending import SessionEnding
from services.sessions.rate_limits import Limits
from services.sessions.records import SessionRecords
from services.sessions.service import SessionsService
from services.sessions.settings import SessionsSettings
from services.sessions.tokens import Signer

log = structlog.get_logger(__name__)

_SERVICE = "unirig.v1.SessionsService"
_CHECK_SECONDS = 1.0


async def serve(settings: SessionsSettings) -> None:
    """Serves until SIGTERM, then finishes the calls in progress."""
    stopped = stop_event()
    limits = Limits(
        api=settings.rate_limit_api_per_hour,
        uploads=settings.rate_limit_uploads_per_hour,
        new_sessions=settings.rate_limit_new_sessions_per_hour,
    )
    records = SessionRecords(
        settings.redis_url.get_secret_value(), settings.session_ttl_seconds, limits
    )
    ending = SessionEnding(records, settings.sweep_interval_seconds)
    signer = Signer(settings.signing_key_bytes())
    service = SessionsService(signer, records, ending, limits, settings.session_ttl_seconds)
    rpc = RpcServer(settings.bind_host, settings.grpc_port)
    sessions_pb2_grpc.add_SessionsServiceServicer_to_server(service, rpc.server)

    await rpc.start([_SERVICE])
    watching = asyncio.create_task(_watch_redis(records, rpc))
    serve_metrics("sessions", settings.bind_host, settings.metrics_port, lambda: rpc.ready)
    work = [
        watching,
        asyncio.create_task(ending.expire_forever()),
        asyncio.create_task(_announce(ending, settings)),
    ]
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait([stop, *work], return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in work if task.done()]

    log.info("stopping")
    watching.cancel()
    await rpc.stop(settings.shutdown_grace_seconds)
    for task in (stop, *work):
        task.cancel()
    await asyncio.gather(stop, *work, return_exceptions=True)
    await records.close()
    for task in failed:
        task.result()


async def _watch_redis(records: SessionRecords, rpc: RpcServer) -> None:
    """Keeps the service's readiness equal to Redis's."""
    while True:
        try:
            await records.check()
            answers = True
        except ApiError:
            answers = False
        if answers != rpc.ready:
            log.info("readiness changed", ready=answers)
            await rpc.set_ready(answers)
        await asyncio.sleep(_CHECK_SECONDS)


async def _announce(ending: SessionEnding, settings: SessionsSettings) -> None:
    """Publishes the ends of sessions. Requests are served without NATS, too."""
    connection = await connect(settings.nats_url, "sessions")
    try:
        while True:
            try:
                jetstream = await ensure_streams(connection, settings.nats_replicas)
                break
            except (NatsError, TimeoutError) as error:
                log.warning("waiting for the streams", error=str(error) or type(error).__name__)
                await asyncio.sleep(_CHECK_SECONDS)
        await ending.announce_forever(jetstream)
    finally:
        await connection.close()


def main() -> None:
    settings = SessionsSettings()
    configure_logs("sessions", settings.log_level)
    with tracing("sessions"):
        asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
