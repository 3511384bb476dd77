"""What the jobs service counts, beside the calls that every service counts."""

from prometheus_client import Counter, Gauge, Histogram

TRANSITIONS = Counter(
    "unirig_job_transitions_total", "Jobs that entered a state.", ["type", "status"]
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
    ["type", "status"],
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800),
)
REDELIVERIES = Counter(
    "unirig_job_redeliveries_total", "Attempts after the first that were started.", ["type"]
)
REFUSED_OUTCOMES = Counter(
    "unirig_job_refused_outcomes_total", "Outcomes of superseded attempts and ended jobs.", ["why"]
)
DEAD_LETTERS = Counter("unirig_job_dead_letters_total", "Jobs given up.", ["type"])
ACTIVE = Gauge("unirig_jobs_active", "Jobs pending or running, as every replica sees them.")
OUTBOX = Gauge("unirig_jobs_outbox_messages", "Messages that must yet reach JetStream.")
