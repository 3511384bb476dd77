"""What the jobs service writes to Redis reads back as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unirig.v1 import jobs_pb2, messages_pb2

from services.jobs.outbox_message import OutboxMessage, decode, encode
from services.jobs.record import STATUS_NAMES, command_of, read_record


def flat(**fields: bytes | str | int) -> list[bytes]:
    """Fields and values as Redis answers them."""
    record: dict[str, bytes | str | int] = {
        "session": "a" * 32,
        "type": "skeleton",
        "spec": jobs_pb2.JobSpec(type=jobs_pb2.JOB_TYPE_SKELETON).SerializeToString(),
        "status": "pending",
        "progress": 0,
        "attempt": 0,
        "created": 1_764_000_000_123_456,
        **fields,
    }
    return [
        part if isinstance(part, bytes) else str(part).encode()
        for item in record.items()
        for part in item
    ]


@given(
    subject=st.text(min_size=1),
    payload=st.binary(),
    job_id=st.text(),
    request_id=st.text(),
)
def test_a_message_survives_the_outbox(
    subject: str, payload: bytes, job_id: str, request_id: str
) -> None:
    message = OutboxMessage("id", subject, payload, job_id, request_id)
    assert decode("id", encode(message)) == message


def test_no_fields_are_no_record() -> None:
    assert read_record("j", []) is None


def test_a_pending_job_has_no_later_times_and_no_known_command() -> None:
    record = read_record("j", flat())
    assert record
    assert record.sequence is None
    assert record.job.created_at.ToMicroseconds() == 1_764_000_000_123_456
    assert not record.job.HasField("started_at")
    assert not record.job.HasField("completed_at")


def test_a_completed_job_carries_its_result_and_its_times() -> None:
    artifact = jobs_pb2.Artifact(format="fbx", path="/results/x/y.fbx", size=5)
    result = messages_pb2.JobSucceeded(
        output_file="/results/x/y.fbx", artifacts=[artifact], notes=["Ünïcode"]
    )
    record = read_record(
        "j",
        flat(
            status="completed",
            progress=100,
            attempt=2,
            sequence=41,
            started=1_764_000_001_000_000,
            ended=1_764_000_002_000_001,
            result=result.SerializeToString(),
        ),
    )
    assert record
    assert record.sequence == 41
    assert (record.job.output_file, list(record.job.artifacts)) == ("/results/x/y.fbx", [artifact])
    assert list(record.job.notes) == ["Ünïcode"]
    assert record.job.started_at.ToMicroseconds() == 1_764_000_001_000_000
    assert record.job.completed_at.ToMicroseconds() == 1_764_000_002_000_001


@pytest.mark.parametrize(("status", "name"), STATUS_NAMES.items())
def test_every_state_reads_back(status: "jobs_pb2.JobStatus.ValueType", name: str) -> None:
    record = read_record("j", flat(status=name))
    assert record
    assert record.job.status == status


def test_the_command_says_which_job_of_which_session() -> None:
    spec = jobs_pb2.JobSpec(type=jobs_pb2.JOB_TYPE_MERGE, input_file="/results/x/a.fbx")
    job = jobs_pb2.Job(job_id="j", session_id="s", spec=spec, progress=7)
    command = messages_pb2.RunJob.FromString(command_of(job))
    assert command == messages_pb2.RunJob(job_id="j", session_id="s", spec=spec)
