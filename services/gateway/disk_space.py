"""GET /api/disk-space, and what a full disk forbids."""

from fastapi import APIRouter, Request
from unirig.v1.storage_pb2 import (
    DISK_STATUS_CRITICAL,
    DISK_STATUS_OK,
    DISK_STATUS_WARNING,
    GetDiskSpaceRequest,
)

from services.common.errors import ApiError, ErrorCode
from services.gateway.backends import Backends
from services.gateway.openapi import answers
from services.gateway.schemas import DiskSpace

router = APIRouter(prefix="/api", tags=["Service"])

_STATUS = {
    DISK_STATUS_OK: "ok",
    DISK_STATUS_WARNING: "warning",
    DISK_STATUS_CRITICAL: "critical",
}


@router.get("/disk-space", responses=answers(ErrorCode.SERVICE_UNAVAILABLE))
async def disk_space(request: Request) -> DiskSpace:
    """How full the storage volume is."""
    backends: Backends = request.app.state.backends
    space = await backends.call(backends.storage.GetDiskSpace, GetDiskSpaceRequest())
    return DiskSpace.model_validate(
        {
            "total": space.total,
            "used": space.used,
            "free": space.free,
            "percent_used": round(100 * space.used / space.total, 1) if space.total else 0.0,
            "status": _STATUS[space.status],
            "warning_threshold_gb": _plain(space.warning_threshold_gb),
            "critical_threshold_gb": _plain(space.critical_threshold_gb),
        }
    )


async def refuse_when_full(backends: Backends) -> None:
    """STORAGE_FULL where the space is critical: uploads and new jobs wait, reads go on."""
    space = await backends.call(backends.storage.GetDiskSpace, GetDiskSpaceRequest())
    if space.status == DISK_STATUS_CRITICAL:
        raise ApiError(
            ErrorCode.STORAGE_FULL,
            "The storage is full. New uploads and jobs are refused until space is free.",
        )


def _plain(number: float) -> int | float:
    return int(number) if number.is_integer() else number
