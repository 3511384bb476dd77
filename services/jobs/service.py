"""The gRPC face of the jobs service: checks what was asked, and answers."""

import re
from typing import Any

import structlog
from unirig.v1 import jobs_pb2, jobs_pb2_grpc

from services.common.errors import ApiError, ErrorCode
from services.common.paths import is_session_id
from services.jobs.lifecycle import JobLifecycle, job_not_found
from services.jobs.record import STATUS_NAMES, TYPE_NAMES
from services.jobs.store import JobStore

MAX_PAGE = 200
_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_MERGE_FORMATS = frozenset({"fbx", "glb", "vrm"})
# Redis takes offsets up to this.
_MAX_OFFSET = 2**31 - 1 - MAX_PAGE


class JobsServicer(jobs_pb2_grpc.JobsServiceServicer):
    def __init__(self, store: JobStore, lifecycle: JobLifecycle) -> None:
        self._store = store
        self._lifecycle = lifecycle

    async def CreateJob(
        self, request: jobs_pb2.CreateJobRequest, context: Any
    ) -> jobs_pb2.CreateJobResponse:
        _check_session(request.session_id)
        _check_spec(request.spec)
        request_id = str(structlog.contextvars.get_contextvars().get("request_id", ""))
        job = await self._lifecycle.create(request.session_id, request.spec, request_id)
        return jobs_pb2.CreateJobResponse(job=job)

    async def GetJob(
        self, request: jobs_pb2.GetJobRequest, context: Any
    ) -> jobs_pb2.GetJobResponse:
        _check_job(request.session_id, request.job_id)
        record = await self._store.get(request.job_id)
        if record is None or record.job.session_id != request.session_id:
            raise job_not_found()
        return jobs_pb2.GetJobResponse(job=record.job)

    async def ListJobs(
        self, request: jobs_pb2.ListJobsRequest, context: Any
    ) -> jobs_pb2.ListJobsResponse:
        _check_session(request.session_id)
        if not 1 <= request.limit <= MAX_PAGE:
            raise _invalid(f"limit must be between 1 and {MAX_PAGE}")
        if not 0 <= request.offset <= _MAX_OFFSET:
            raise _invalid(f"offset must be between 0 and {_MAX_OFFSET}")
        if request.status not in (jobs_pb2.JOB_STATUS_UNSPECIFIED, *STATUS_NAMES):
            raise _invalid("status is unknown")
        jobs, total = await self._store.page(
            request.session_id, request.status, request.offset, request.limit
        )
        return jobs_pb2.ListJobsResponse(jobs=jobs, total=total)

    async def CancelJob(
        self, request: jobs_pb2.CancelJobRequest, context: Any
    ) -> jobs_pb2.CancelJobResponse:
        _check_job(request.session_id, request.job_id)
        job = await self._lifecycle.cancel(request.session_id, request.job_id)
        return jobs_pb2.CancelJobResponse(job=job)

    async def DeleteJob(
        self, request: jobs_pb2.DeleteJobRequest, context: Any
    ) -> jobs_pb2.DeleteJobResponse:
        _check_job(request.session_id, request.job_id)
        await self._lifecycle.delete(request.session_id, request.job_id)
        return jobs_pb2.DeleteJobResponse()

    async def CountJobs(
        self, request: jobs_pb2.CountJobsRequest, context: Any
    ) -> jobs_pb2.CountJobsResponse:
        _check_session(request.session_id)
        return jobs_pb2.CountJobsResponse(**await self._store.count(request.session_id))


def _check_session(session_id: str) -> None:
    if not is_session_id(session_id):
        raise _invalid("session_id must be 32 hex digits")


def _check_job(session_id: str, job_id: str) -> None:
    """What is no id can't be a job's."""
    _check_session(session_id)
    if not _JOB_ID.match(job_id):
        raise job_not_found()


def _check_spec(spec: jobs_pb2.JobSpec) -> None:
    if spec.type not in TYPE_NAMES:
        raise _invalid("type must be skeleton, skinning or merge")
    if not spec.input_file:
        raise _invalid("input_file is missing")
    if spec.type != jobs_pb2.JOB_TYPE_MERGE:
        return
    if not spec.skinning_file:
        raise _invalid("skinning_file is missing")
    if spec.output_format not in _MERGE_FORMATS:
        raise _invalid("output_format must be fbx, glb or vrm")


def _invalid(detail: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, detail)
