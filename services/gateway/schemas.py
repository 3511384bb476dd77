"""What the API takes and gives, as JSON. Field names and examples are the reference's."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, field_validator

EXAMPLE_TIME = "2025-11-13T10:30:00Z"


def timestamp(moment: datetime) -> str:
    """Whole seconds, UTC, with a Z; a naive moment is taken for UTC."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.strftime("%Y-%m-%dT%H:%M:%SZ")


Timestamp = Annotated[
    datetime, PlainSerializer(timestamp, return_type=str), Field(examples=[EXAMPLE_TIME])
]
JobStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
JobType = Literal["skeleton", "skinning", "merge"]


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"example": fields})


class Error(BaseModel):
    """The body of every error."""

    model_config = _example(
        detail="Error message description", error_code="ERROR_CODE", timestamp=EXAMPLE_TIME
    )

    detail: str = Field(description="What went wrong, for people.")
    error_code: str = Field(description="What went wrong, for programs.")
    timestamp: Timestamp
    retry_after: int | None = Field(
        None, description="With 429 only: seconds until a retry can succeed."
    )


class CsrfToken(BaseModel):
    model_config = _example(csrf_token="a1b2c3d4e5f6...")  # noqa: S106 - the reference's example

    csrf_token: str


class Health(BaseModel):
    model_config = _example(status="healthy", timestamp=EXAMPLE_TIME, version="1.0.0")

    status: Literal["healthy"]
    timestamp: Timestamp
    version: str


class UploadedFile(BaseModel):
    model_config = _example(
        filename="model.obj",
        path="/uploads/session123/model.obj",
        size=1048576,
        mime_type="model/obj",
        uploaded_at=EXAMPLE_TIME,
    )

    filename: str
    path: str = Field(description="What jobs take as their input_file.")
    size: int = Field(description="Bytes.")
    mime_type: str
    uploaded_at: Timestamp


class SkinningOptions(BaseModel):
    """How weights are predicted; what is left out is the engine's own choice."""

    model_config = ConfigDict(extra="forbid")

    seed: int | None = Field(
        None, ge=0, le=2**32 - 1, description="The same seed and model give the same result."
    )


class SkeletonOptions(SkinningOptions):
    """How a skeleton is predicted; what is left out is the engine's own choice."""

    skeleton_class: Literal["articulationxl", "vroid", "mixamo"] | None = Field(
        None, description="The kind of skeleton: any body, or a humanoid with VRoid's or Mixamo's."
    )
    beams: int | None = Field(
        None, ge=1, le=15, description="Sequences that the search follows at once."
    )
    temperature: float | None = Field(
        None, ge=0.1, le=2, description="How evenly tokens are drawn."
    )
    top_k: int | None = Field(
        None, ge=1, le=50, description="How many tokens, the likeliest, may be drawn at a step."
    )
    top_p: float | None = Field(
        None, ge=0.1, le=1, description="Tokens up to this probability may be drawn at a step."
    )
    repetition_penalty: float | None = Field(
        None, ge=1, le=5, description="How much less likely a token is that was drawn before."
    )
    max_joints: int | None = Field(
        None, ge=2, le=256, description="The skeleton ends at so many joints."
    )


class SkeletonRequest(BaseModel):
    model_config = _example(input_file="/uploads/session123/model.obj")

    input_file: str = Field(description="The path of an uploaded or resulting file.")
    options: SkeletonOptions | None = None


class SkinningRequest(BaseModel):
    model_config = _example(input_file="/uploads/session123/model_skeleton.obj")

    input_file: str = Field(description="The path of a file with a mesh and a skeleton.")
    options: SkinningOptions | None = None


class MergeRequest(BaseModel):
    model_config = _example(
        skeleton_file="/results/session123/skeleton.fbx",
        skinning_file="/results/session123/skinning.fbx",
        output_format="fbx",
    )

    skeleton_file: str
    skinning_file: str
    output_format: Literal["fbx", "glb", "vrm"] = "fbx"
    target_file: str | None = Field(
        None, description="The original asset, where it is not to be found by the files' lineage."
    )

    @field_validator("output_format", mode="before")
    @classmethod
    def _no_rig_in_obj(cls, value: object) -> object:
        if value == "obj":
            raise ValueError("an OBJ file cannot hold a rig; choose fbx, glb or vrm")
        return value


class CreatedJob(BaseModel):
    """A job that was accepted. Its options are there where the request had some, the last four
    fields for merge jobs only."""

    model_config = _example(
        job_id="job-uuid-1234",
        status="pending",
        type="skeleton",
        input_file="/uploads/session123/model.obj",
        created_at=EXAMPLE_TIME,
        progress=0,
    )

    job_id: str
    status: JobStatus
    type: JobType
    input_file: str
    created_at: Timestamp
    progress: int = Field(ge=0, le=100)
    options: SkeletonOptions | None = None
    skeleton_file: str | None = None
    skinning_file: str | None = None
    output_format: str | None = None
    target_file: str | None = None


class Artifact(BaseModel):
    """A file that a job made."""

    format: str
    path: str
    size: int = Field(description="Bytes.")


class Job(BaseModel):
    """A job. Its options are there where the request had some, the last four fields for merge jobs
    only."""

    model_config = _example(
        job_id="job-uuid-1234",
        status="running",
        type="skeleton",
        input_file="/uploads/session123/model.obj",
        output_file=None,
        progress=45,
        error=None,
        created_at=EXAMPLE_TIME,
        started_at="2025-11-13T10:30:15Z",
        completed_at=None,
    )

    job_id: str
    status: JobStatus
    type: JobType
    input_file: str
    output_file: str | None
    progress: int = Field(ge=0, le=100)
    error: str | None
    created_at: Timestamp
    started_at: Timestamp | None
    completed_at: Timestamp | None
    error_code: str | None = None
    message: str | None = Field(None, description="What an active job is doing, for people.")
    artifacts: list[Artifact] = Field([], description="Every file made, output_file included.")
    engine: str | None = None
    engine_version: str | None = None
    notes: list[str] = Field([], description="Things worth knowing about the result.")
    options: SkeletonOptions | None = None
    skeleton_file: str | None = None
    skinning_file: str | None = None
    output_format: str | None = None
    target_file: str | None = None


class ListedJob(BaseModel):
    job_id: str
    status: JobStatus
    type: JobType
    progress: int = Field(ge=0, le=100)
    created_at: Timestamp
    completed_at: Timestamp | None
    input_file: str | None = None
    output_file: str | None = None
    error: str | None = None
    error_code: str | None = None


class JobList(BaseModel):
    model_config = _example(
        jobs=[
            {
                "job_id": "job-uuid-1234",
                "status": "completed",
                "type": "skeleton",
                "progress": 100,
                "created_at": EXAMPLE_TIME,
                "completed_at": "2025-11-13T10:33:00Z",
            },
            {
                "job_id": "job-uuid-5678",
                "status": "running",
                "type": "skinning",
                "progress": 65,
                "created_at": "2025-11-13T10:35:00Z",
                "completed_at": None,
            },
        ],
        total=2,
        limit=50,
        offset=0,
    )

    jobs: list[ListedJob] = Field(description="Newest first.")
    total: int = Field(description="All jobs that match, whatever the page.")
    limit: int
    offset: int


class CancelledJob(BaseModel):
    model_config = _example(
        job_id="job-uuid-1234", status="cancelled", message="Job cancelled successfully"
    )

    job_id: str
    status: JobStatus
    message: str


class Message(BaseModel):
    model_config = _example(message="Job deleted successfully")

    message: str


class SessionStats(BaseModel):
    """The session's jobs by state; pending_jobs counts every job that has not ended."""

    model_config = _example(
        session_id="session123",
        total_jobs=5,
        completed_jobs=3,
        failed_jobs=1,
        pending_jobs=1,
        total_uploads=10,
        storage_used_mb=250.5,
        created_at="2025-11-13T08:00:00Z",
        last_activity=EXAMPLE_TIME,
    )

    session_id: str
    total_jobs: int
    completed_jobs: int
    failed_jobs: int
    pending_jobs: int = Field(description="Waiting or running.")
    total_uploads: int
    storage_used_mb: float = Field(description="MiB.")
    created_at: Timestamp
    last_activity: Timestamp
    running_jobs: int = Field(0, description="Those of pending_jobs that run now.")
    cancelled_jobs: int = 0


class DeletedSession(BaseModel):
    model_config = _example(
        message="Session deleted successfully", files_deleted=15, storage_freed_mb=250.5
    )

    message: str
    files_deleted: int
    storage_freed_mb: float = Field(description="MiB.")


class DiskSpace(BaseModel):
    model_config = _example(
        total=107374182400,
        used=53687091200,
        free=53687091200,
        percent_used=50.0,
        status="ok",
        warning_threshold_gb=10,
        critical_threshold_gb=5,
    )

    total: int = Field(description="Bytes.")
    used: int = Field(description="Bytes.")
    free: int = Field(description="Bytes.")
    percent_used: float
    status: Literal["ok", "warning", "critical"]
    warning_threshold_gb: int | float
    critical_threshold_gb: int | float
