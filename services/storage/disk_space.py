"""How full the storage is."""

from dataclasses import dataclass
from enum import Enum


class DiskStatus(Enum):
    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class DiskSpace:
    """In bytes; used and free add up to total."""

    total: int
    used: int
    free: int


@dataclass(frozen=True)
class Thresholds:
    """Bytes free: OK above warning, CRITICAL below critical, WARNING from one to the other."""

    warning: float
    critical: float

    def status_of(self, space: DiskSpace) -> DiskStatus:
        if space.free < self.critical:
            return DiskStatus.CRITICAL
        return DiskStatus.OK if space.free > self.warning else DiskStatus.WARNING
