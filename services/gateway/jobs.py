"""/api/jobs: create, look at, cancel and delete."""

import asyncio
import uuid
from datetime import datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from unirig.v1 import jobs_pb2
from unirig.v1.jobs_pb2 import (
    JOB_TYPE_MERGE,
    JOB_TYPE_SKELETON,
    JOB_TYPE_SKINNING,
    CancelJobRequest,
    CreateJobRequest,
    DeleteJobRequest,
    GetJobRequest,
    JobSpec,
    ListJobsRequest,
    RigOptions,
)
from unirig.v1.storage_pb2 import DeleteJobFilesRequest, StatFileRequest

from services.common.errors import ApiError, ErrorCode
from services.common.paths import parse_path
from services.gateway.authorize import AuthorizedRoute, Granted
from services.gateway.backends import Backends
from services.gateway.disk_space import refuse_when_full
from services.gateway.openapi import CHANGE_ERRORS, CREATE_ERRORS, READ_ERRORS, answers
from services.gateway.schemas import (
    Artifact,
    CancelledJob,
    CreatedJob,
    Job,
    JobList,
    JobStatus,
    JobType,
    ListedJob,
    MergeRequest,
    Message,
    SkeletonOptions,
    SkeletonRequest,
    SkinningOptions,
    SkinningRequest,
)

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/api/jobs", route_class=AuthorizedRoute, tags=["Jobs"])

_INT32_MAX = 2**31 - 1
_STATUS_NAMES: dict["jobs_pb2.JobStatus.ValueType", JobStatus] = {
    jobs_pb2.JOB_STATUS_PENDING: "pending",
    jobs_pb2.JOB_STATUS_RUNNING: "running",
    jobs_pb2.JOB_STATUS_COMPLETED: "completed",
    jobs_pb2.JOB_STATUS_FAILED: "failed",
    jobs_pb2.JOB_STATUS_CANCELLED: "cancelled",
}
_STATUSES = {name: value for value, name in _STATUS_NAMES.items()}
_TYPE_NAMES: dict["jobs_pb2.JobType.ValueType", JobType] = {
    JOB_TYPE_SKELETON: "skeleton",
    JOB_TYPE_SKINNING: "skinning",
    JOB_TYPE_MERGE: "merge",
}


@router.post("/skeleton", responses=answers(*CREATE_ERRORS), response_model_exclude_unset=True)
async def create_skeleton_job(
    body: SkeletonRequest, request: Request, granted: Granted
) -> CreatedJob:
    """Predict a skeleton for a model."""
    spec = JobSpec(type=JOB_TYPE_SKELETON, options=_options(body.options))
    return await _create(request, granted.session_id, spec, {"input_file": body.input_file})


@router.post("/skinning", responses=answers(*CREATE_ERRORS), response_model_exclude_unset=True)
async def create_skinning_job(
    body: SkinningRequest, request: Request, granted: Granted
) -> CreatedJob:
    """Predict skinning weights for a model with a skeleton."""
    spec = JobSpec(type=JOB_TYPE_SKINNING, options=_options(body.options))
    return await _create(request, granted.session_id, spec, {"input_file": body.input_file})


@router.post("/merge", responses=answers(*CREATE_ERRORS), response_model_exclude_unset=True)
async def create_merge_job(body: MergeRequest, request: Request, granted: Granted) -> CreatedJob:
    """Put skeleton and weights into the original asset."""
    paths = {"input_file": body.skeleton_file, "skinning_file": body.skinning_file}
    if body.target_file is not None:
        paths["target_file"] = body.target_file
    spec = JobSpec(type=JOB_TYPE_MERGE, output_format=body.output_format)
    return await _create(request, granted.session_id, spec, paths)


@router.get("", responses=answers(*READ_ERRORS, ErrorCode.INVALID_REQUEST))
async def list_jobs(
    request: Request,
    granted: Granted,
    status: Annotated[JobStatus | None, Query(description="Only jobs in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Max jobs to return.")] = 50,
    offset: Annotated[int, Query(ge=0, le=_INT32_MAX, description="Jobs to skip.")] = 0,
) -> JobList:
    """The session's jobs, newest first."""
    backends: Backends = request.app.state.backends
    found = await backends.call(
        backends.jobs.ListJobs,
        ListJobsRequest(
            session_id=granted.session_id,
            status=_STATUSES[status] if status else jobs_pb2.JOB_STATUS_UNSPECIFIED,
            limit=limit,
            offset=offset,
        ),
    )
    jobs = [_listed(job) for job in found.jobs]
    return JobList(jobs=jobs, total=found.total, limit=limit, offset=offset)


@router.get(
    "/{job_id}",
    responses=answers(*READ_ERRORS, ErrorCode.JOB_NOT_FOUND),
    response_model_exclude_unset=True,
)
async def get_job(job_id: str, request: Request, granted: Granted) -> Job:
    """A job's state, progress and results."""
    backends: Backends = request.app.state.backends
    wanted = GetJobRequest(session_id=granted.session_id, job_id=_checked(job_id))
    answer = await backends.call(backends.jobs.GetJob, wanted)
    return _shown(answer.job)


@router.post(
    "/{job_id}/cancel",
    responses=answers(*CHANGE_ERRORS, ErrorCode.JOB_NOT_FOUND, ErrorCode.JOB_NOT_CANCELLABLE),
)
async def cancel_job(job_id: str, request: Request, granted: Granted) -> CancelledJob:
    """Stop a job that is waiting or running."""
    backends: Backends = request.app.state.backends
    wanted = CancelJobRequest(session_id=granted.session_id, job_id=_checked(job_id))
    answer = await backends.call(backends.jobs.CancelJob, wanted)
    return CancelledJob(
        job_id=answer.job.job_id,
        status=status_name(answer.job),
        message="Job cancelled successfully",
    )


@router.delete("/{job_id}", responses=answers(*CHANGE_ERRORS, ErrorCode.JOB_NOT_FOUND))
async def delete_job(job_id: str, request: Request, granted: Granted) -> Message:
    """Delete a job and its results; one that is active is cancelled first."""
    backends: Backends = request.app.state.backends
    session_id = granted.session_id
    await backends.call(
        backends.jobs.DeleteJob, DeleteJobRequest(session_id=session_id, job_id=_checked(job_id))
    )
    try:
        await backends.call(
            backends.storage.DeleteJobFiles,
            DeleteJobFilesRequest(session_id=session_id, job_id=job_id),
        )
    except ApiError as error:
        # The JobDeleted event has storage delete them later.
        log.warning("result files not deleted yet", job_id=job_id, code=error.code)
    return Message(message="Job deleted successfully")


async def _create(
    request: Request, session_id: str, spec: JobSpec, paths: dict[str, str]
) -> CreatedJob:
    """Creates the job once each path, by the field of the spec that takes it, is known to be
    the session's."""
    backends: Backends = request.app.state.backends
    stored = await asyncio.gather(
        refuse_when_full(backends),
        *(_stored_path(backends, session_id, path) for path in paths.values()),
    )
    for field, path in zip(paths, stored[1:], strict=True):
        setattr(spec, field, path)
    answer = await backends.call(
        backends.jobs.CreateJob, CreateJobRequest(session_id=session_id, spec=spec)
    )
    job = answer.job
    return CreatedJob(
        job_id=job.job_id,
        status=status_name(job),
        type=type_name(job),
        input_file=job.spec.input_file,
        created_at=job.created_at.ToDatetime(),
        progress=job.progress,
        **_spec_fields(job),
    )


def _options(given: SkinningOptions | None) -> RigOptions | None:
    """The options as the request has them; None where it has none."""
    return RigOptions(**given.model_dump(exclude_none=True)) if given else None


async def _stored_path(backends: Backends, session_id: str, text: str) -> str:
    """The file's path with the session's id alone. FILE_NOT_FOUND where the session has none."""
    path = parse_path(text)
    if path is None or path.session_id != session_id:
        raise ApiError(ErrorCode.FILE_NOT_FOUND, "File not found")
    wanted = StatFileRequest(session_id=session_id, path=str(path))
    await backends.call(backends.storage.StatFile, wanted)
    return str(path)


def _checked(job_id: str) -> str:
    """The id, where it can be one at all."""
    try:
        uuid.UUID(job_id)
    except ValueError:
        raise ApiError(ErrorCode.JOB_NOT_FOUND, "Job not found") from None
    return job_id


def is_active(job: jobs_pb2.Job) -> bool:
    return job.status in (jobs_pb2.JOB_STATUS_PENDING, jobs_pb2.JOB_STATUS_RUNNING)


def status_name(job: jobs_pb2.Job) -> JobStatus:
    return _STATUS_NAMES[job.status]


def type_name(job: jobs_pb2.Job) -> JobType:
    return _TYPE_NAMES[job.spec.type]


def _moment(value: Timestamp, is_set: bool) -> datetime | None:
    return value.ToDatetime() if is_set else None


def _spec_fields(job: jobs_pb2.Job) -> dict[str, Any]:
    """What the request had beside its input, where it can have that."""
    if job.spec.type != JOB_TYPE_MERGE:
        options = MessageToDict(job.spec.options, preserving_proto_field_name=True)
        return {"options": SkeletonOptions(**options)} if options else {}
    return {
        "skeleton_file": job.spec.input_file,
        "skinning_file": job.spec.skinning_file,
        "output_format": job.spec.output_format,
        "target_file": job.spec.target_file or None,
    }


def _shown(job: jobs_pb2.Job) -> Job:
    artifacts = [Artifact(format=a.format, path=a.path, size=a.size) for a in job.artifacts]
    return Job(
        job_id=job.job_id,
        status=status_name(job),
        type=type_name(job),
        input_file=job.spec.input_file,
        output_file=job.output_file or None,
        progress=job.progress,
        error=job.error or None,
        created_at=job.created_at.ToDatetime(),
        started_at=_moment(job.started_at, job.HasField("started_at")),
        completed_at=_moment(job.completed_at, job.HasField("completed_at")),
        error_code=job.error_code or None,
        message=job.message or None if is_active(job) else None,
        artifacts=artifacts,
        engine=job.engine or None,
        engine_version=job.engine_version or None,
        notes=list(job.notes),
        **_spec_fields(job),
    )


def _listed(job: jobs_pb2.Job) -> ListedJob:
    return ListedJob(
        job_id=job.job_id,
        status=status_name(job),
        type=type_name(job),
        progress=job.progress,
        created_at=job.created_at.ToDatetime(),
        completed_at=_moment(job.completed_at, job.HasField("completed_at")),
        input_file=job.spec.input_file,
        output_file=job.output_file or None,
        error=job.error or None,
        error_code=job.error_code or None,
    )
