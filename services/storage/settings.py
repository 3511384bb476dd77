"""The storage service's settings."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from services.common.settings import RpcServiceSettings

GIB = 1024**3
MIB = 1024**2


class StorageSettings(RpcServiceSettings):
    """AWS credentials come by boto's own conventions: environment, profile or the pod's role."""

    storage_backend: Literal["filesystem", "s3"] = "filesystem"
    # The volume of the filesystem back end.
    storage_folder: Path = Path("/data")

    s3_bucket: str = ""
    s3_region: str = "us-east-1"
    # The URL of an S3-compatible server; none: AWS.
    s3_endpoint: str | None = None
    # The size of the "disk" that an object store, which has none, is taken for. GiB.
    s3_quota_gb: float = Field(default=100, gt=0)

    # Bytes of one upload.
    max_file_bytes: int = Field(default=100 * MIB, gt=0)
    # Bytes of one result: larger than its input, as it adds weights, joints and textures.
    max_result_bytes: int = Field(default=1024 * MIB, gt=0)
    # GiB free: at or below the first the disk is at "warning", below the second "critical".
    disk_warning_gb: float = Field(default=10, ge=0)
    disk_critical_gb: float = Field(default=5, ge=0)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.disk_critical_gb > self.disk_warning_gb:
            raise ValueError("DISK_CRITICAL_GB must not exceed DISK_WARNING_GB")
        if self.storage_backend == "s3" and not self.s3_bucket:
            raise ValueError("STORAGE_BACKEND=s3 needs S3_BUCKET")
        return self
