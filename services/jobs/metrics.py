"""What the jobs service counts, beside the calls that every service counts."""

from prometheus_client import Counter, Gauge, Histogram

from services.common.errors import ErrorCode
from services.jobs.record import TYPE_NAMES

TRANSITIONS = Counter(
    "unirig_job_transitions_total",
    "Jobs that entered a state; engine is none until a worker has begun.",
    ["type", "engine", "status"],
)
QUEUE_SECONDS = Histogram(
    "unirig_job_queue_seconds",
    "From a job's creation to its first start.",
    ["type"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800),
)
RUN_SECONDS = Histogram(
    "unirig_job_run_seconds",
    "From a job's first start to its end.",
    ["type", "engine", "status"],
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800),
)
FAILURES = Counter("unirig_job_failures_total", "Jobs failed, by error code.", ["type", "code"])
REDELIVERIES = Counter(
    "unirig_job_redeliveries_total", "Attempts after the first that were started.", ["type"]
)
HANDED_BACK = Counter(
    "unirig_job_hand_backs_total", "Attempts given back by workers that stopped.", ["type"]
)
REFUSED_OUTCOMES = Counter(
    "unirig_job_refused_outcomes_total", "Outcomes of superseded attempts and ended jobs.", ["why"]
)
DEAD_LETTERS = Counter("unirig_job_dead_letters_total", "Jobs given up.", ["type"])
ACTIVE = Gauge("unirig_jobs_active", "Jobs pending or running, as every replica sees them.")
OUTBOX = Gauge("unirig_jobs_outbox_messages", "Messages that must yet reach JetStream.")
OLDEST_WAIT_SECONDS = Gauge(
    "unirig_job_oldest_wait_seconds", "Since when the longest waiting job waits; 0: none does."
)
# Of JetStream and Redis, which export nothing themselves.
CONSUMER_PENDING = Gauge(
    "unirig_jetstream_consumer_pending_messages",
    "Messages that a consumer has not had yet.",
    ["stream", "consumer"],
)
CONSUMER_UNACKNOWLEDGED = Gauge(
    "unirig_jetstream_consumer_unacknowledged_messages",
    "Messages that a consumer works on.",
    ["stream", "consumer"],
)
CONSUMER_REDELIVERED = Gauge(
    "unirig_jetstream_consumer_redelivered_messages",
    "Of those unacknowledged, the ones it has not for the first time.",
    ["stream", "consumer"],
)
STREAM_MESSAGES = Gauge("unirig_jetstream_stream_messages", "Messages kept.", ["stream"])
STREAM_BYTES = Gauge("unirig_jetstream_stream_bytes", "Bytes kept on disk.", ["stream"])
REDIS_USED = Gauge("unirig_redis_memory_used_bytes", "Memory that Redis has in use.")
REDIS_LIMIT = Gauge(
    "unirig_redis_memory_limit_bytes", "Where Redis begins to refuse writes; 0: nowhere."
)

# From the start, so that a first event is seen as an increase.
for _why in ("final", "superseded", "missing"):
    REFUSED_OUTCOMES.labels(_why)
for _type in TYPE_NAMES.values():
    QUEUE_SECONDS.labels(_type)
    for _status in ("pending", "failed", "cancelled"):
        TRANSITIONS.labels(_type, "none", _status)
    for _engine in ("geometric", "unirig"):
        RUN_SECONDS.labels(_type, _engine, "completed")
        for _status in ("running", "completed", "failed", "cancelled"):
            TRANSITIONS.labels(_type, _engine, _status)
    for _counter in (REDELIVERIES, HANDED_BACK, DEAD_LETTERS):
        _counter.labels(_type)
    for _code in (
        ErrorCode.GPU_OUT_OF_MEMORY,
        ErrorCode.INVALID_MESH,
        ErrorCode.MODEL_CHECKPOINT_MISSING,
        ErrorCode.PROCESSING_FAILED,
        ErrorCode.SERVICE_UNAVAILABLE,
        ErrorCode.TIMEOUT,
    ):
        FAILURES.labels(_type, _code)
