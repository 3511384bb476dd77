"""A job's record as Redis keeps it, and the messages made of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp
from unirig.v1 import jobs_pb2, messages_pb2

STATUS_NAMES = {
    jobs_pb2.JOB_STATUS_PENDING: "pending",
    jobs_pb2.JOB_STATUS_RUNNING: "running",
    jobs_pb2.JOB_STATUS_COMPLETED: "completed",
    jobs_pb2.JOB_STATUS_FAILED: "failed",
    jobs_pb2.JOB_STATUS_CANCELLED: "cancelled",
}
TYPE_NAMES = {
    jobs_pb2.JOB_TYPE_SKELETON: "skeleton",
    jobs_pb2.JOB_TYPE_SKINNING: "skinning",
    jobs_pb2.JOB_TYPE_MERGE: "merge",
}
ACTIVE_STATUSES = frozenset({jobs_pb2.JOB_STATUS_PENDING, jobs_pb2.JOB_STATUS_RUNNING})

_STATUS_OF_NAME = {name: status for status, name in STATUS_NAMES.items()}


@dataclass(frozen=True)
class Record:
    """A job and what only this service knows of it.

    sequence: where its command is in the JOBS stream; None: not known to be there.
    suspicions: how often it was found silent too long since it last spoke.
    """

    job: jobs_pb2.Job
    sequence: int | None
    suspicions: int


def read_record(job_id: str, flat: Sequence[bytes]) -> Record | None:
    """The record in a flat list of fields and values; None where the list is empty.

    The fields are described in scripts/keys.lua.
    """
    if not flat:
        return None
    fields = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}

    def text(name: str) -> str:
        return fields.get(name, b"").decode()

    result = messages_pb2.JobSucceeded.FromString(fields.get("result", b""))
    job = jobs_pb2.Job(
        job_id=job_id,
        session_id=text("session"),
        spec=jobs_pb2.JobSpec.FromString(fields["spec"]),
        status=_STATUS_OF_NAME[text("status")],
        progress=int(fields["progress"]),
        message=text("message"),
        output_file=result.output_file,
        artifacts=result.artifacts,
        error=text("error"),
        error_code=text("error_code"),
        engine=text("engine"),
        engine_version=text("engine_version"),
        notes=result.notes,
        attempt=int(fields["attempt"]),
        created_at=_time(fields["created"]),
        started_at=_time(fields.get("started")),
        completed_at=_time(fields.get("ended")),
    )
    sequence = fields.get("sequence")
    return Record(job, int(sequence) if sequence else None, int(fields.get("suspicions", b"0")))


def command_of(job: jobs_pb2.Job) -> bytes:
    """The RunJob message that tells a worker to run the job."""
    command = messages_pb2.RunJob(job_id=job.job_id, session_id=job.session_id, spec=job.spec)
    return command.SerializeToString()


def _time(microseconds: bytes | None) -> Timestamp | None:
    if microseconds is None:
        return None
    moment = Timestamp()
    moment.FromMicroseconds(int(microseconds))
    return moment
