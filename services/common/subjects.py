"""Every NATS subject and stream of the system. Payloads: protos/unirig/v1/messages.proto.

JOBS (work queue)     jobs.run.<type>         RunJob         jobs -> inference workers
DEAD_LETTERS          dead.<job>              RunJob         jobs, after the last delivery failed
JOBS_EXHAUSTED        (EXHAUSTED)             NATS's own     NATS, at the last failed delivery
EVENTS                events.job.outcome      JobOutcome     worker -> jobs
                      events.job.deleted      JobDeleted     jobs -> storage
                      events.session.ended    SessionEnded   sessions -> jobs, storage
not durable           claim                   ClaimJob, answered by ClaimDecision; worker -> jobs
                      progress.<job>          JobProgress       worker -> jobs
                      cancel.<job>            CancelRunningJob  jobs -> workers
                      notify.<session>        JobChanged        jobs -> gateways
"""

from datetime import timedelta

from nats.js.api import RetentionPolicy, StorageType, StreamConfig

JOBS_STREAM = "JOBS"
JOBS_ALL = "jobs.run.>"
JOBS_CONSUMER = "workers"
# A worker that says nothing for this long is dead, and its job goes to another.
ACK_WAIT = timedelta(seconds=30)
MAX_DELIVERIES = 3

DEAD_LETTERS_STREAM = "DEAD_LETTERS"
DEAD_LETTERS_ALL = "dead.>"

# NATS only broadcasts that a message has used up its deliveries; this stream keeps it.
EXHAUSTED_STREAM = "JOBS_EXHAUSTED"
EXHAUSTED = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{JOBS_STREAM}.{JOBS_CONSUMER}"
EXHAUSTED_CONSUMER = "jobs-exhausted"

EVENTS_STREAM = "EVENTS"
EVENTS_ALL = "events.>"
JOB_OUTCOME = "events.job.outcome"
JOB_DELETED = "events.job.deleted"
SESSION_ENDED = "events.session.ended"
# Durable consumers, each shared by all replicas of its service.
OUTCOMES_CONSUMER = "jobs-outcomes"
ENDED_CONSUMER = "jobs-sessions"
STORAGE_CONSUMER = "storage"

CLAIM = "claim"
PROGRESS_ALL = "progress.*"
CANCEL_ALL = "cancel.*"
NOTIFY_ALL = "notify.*"


def run(job_type: str) -> str:
    return f"jobs.run.{job_type}"


def dead(job_id: str) -> str:
    return f"dead.{job_id}"


def progress(job_id: str) -> str:
    return f"progress.{job_id}"


def cancel(job_id: str) -> str:
    return f"cancel.{job_id}"


def notify(session_id: str) -> str:
    return f"notify.{session_id}"


def streams(replicas: int) -> list[StreamConfig]:
    """The streams as they should be: on disk, ids remembered long enough to stop doubles."""
    day = 86400.0
    return [
        StreamConfig(
            name=JOBS_STREAM,
            subjects=[JOBS_ALL],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            num_replicas=replicas,
            duplicate_window=600,
        ),
        StreamConfig(
            name=EVENTS_STREAM,
            subjects=[EVENTS_ALL],
            storage=StorageType.FILE,
            num_replicas=replicas,
            max_age=7 * day,
            duplicate_window=600,
        ),
        StreamConfig(
            name=DEAD_LETTERS_STREAM,
            subjects=[DEAD_LETTERS_ALL],
            storage=StorageType.FILE,
            num_replicas=replicas,
            max_age=14 * day,
        ),
        StreamConfig(
            name=EXHAUSTED_STREAM,
            subjects=[EXHAUSTED],
            storage=StorageType.FILE,
            num_replicas=replicas,
            max_age=7 * day,
        ),
    ]
