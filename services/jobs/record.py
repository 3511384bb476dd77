"""A job's record as Redis keeps it, and the messages made of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp
from unirig.v1 import jobs_pb2, messages_pb2

from services.common import subjects

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
    handed_back: its worker stopped, and it waits for another.
    """

    job: jobs_pb2.Job
    sequence: int | None
    suspicions: int
    handed_back: bool

    @property
    def waits(self) -> bool:
        """Whether no worker has the job, as far as is known."""
        return self.job.status == jobs_pb2.JOB_STATUS_PENDING or self.handed_back

    @property
    def on_last_attempt(self) -> bool:
        """Whether JetStream will not deliver the job's command once more."""
        return not self.waits and self.job.attempt % subjects.MAX_DELIVERIES == 0


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
    return Record(
        job=job,
        sequence=int(sequence) if sequence else None,
        suspicions=int(fields.get("suspicions", b"0")),
        handed_back="handed_back" in fields,
    )


def command_of(job: jobs_pb2.Job) -> bytes:
    """The RunJob message that tells a worker to run the job.

    Its attempts come after all that an earlier command of the job may yet have.
    """
    commands = -(-job.attempt // subjects.MAX_DELIVERIES)
    command = messages_pb2.RunJob(
        job_id=job.job_id,
        session_id=job.session_id,
        spec=job.spec,
        attempts_before=commands * subjects.MAX_DELIVERIES,
    )
    return command.SerializeToString()


def _time(microseconds: bytes | None) -> Timestamp | None:
    if microseconds is None:
        return None
    moment = Timestamp()
    moment.FromMicroseconds(int(microseconds))
    return moment
