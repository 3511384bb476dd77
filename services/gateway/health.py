"""/api/health for clients; /healthz and /readyz for probes."""

from datetime import UTC, datetime
from importlib.metadata import version

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from services.common.errors import ApiError, ErrorCode
from services.gateway.backends import Backends
from services.gateway.openapi import answers
from services.gateway.schemas import Health

router = APIRouter()

VERSION = version("unirig-service")


@router.get("/api/health", tags=["Service"], responses=answers(ErrorCode.SERVICE_UNAVAILABLE))
async def health(request: Request) -> Health:
    """Whether the API and every service behind it work."""
    backends: Backends = request.app.state.backends
    if not await backends.all_serving():
        raise ApiError(
            ErrorCode.SERVICE_UNAVAILABLE,
            "A part of the service is temporarily unavailable. Please try again shortly.",
        )
    return Health(status="healthy", timestamp=datetime.now(UTC), version=VERSION)


@router.get("/healthz", include_in_schema=False)
async def alive() -> PlainTextResponse:
    return PlainTextResponse("ok\n")


@router.get("/readyz", include_in_schema=False)
async def ready(request: Request) -> PlainTextResponse:
    if not request.app.state.ready:
        return PlainTextResponse("not ready\n", 503)
    return PlainTextResponse("ok\n")
