"""What Prometheus sees of the storage; refusals and times are counted by services.common."""

from prometheus_client import Counter, Gauge

BYTES_WRITTEN = Counter(
    "unirig_storage_written_bytes_total", "Bytes of files stored, by area.", ["area"]
)
BYTES_READ = Counter("unirig_storage_read_bytes_total", "Bytes of files sent, by area.", ["area"])
FILES_WRITTEN = Counter("unirig_storage_files_written_total", "Files stored, by area.", ["area"])
FILES_DELETED = Counter("unirig_storage_files_deleted_total", "Files deleted.")
TRANSFERS = Gauge(
    "unirig_storage_transfers_in_progress", "Files on their way, by direction.", ["direction"]
)
DISK_TOTAL = Gauge("unirig_storage_disk_total_bytes", "Size of the storage.")
DISK_USED = Gauge("unirig_storage_disk_used_bytes", "Bytes in use.")
DISK_FREE = Gauge("unirig_storage_disk_free_bytes", "Bytes free.")
DISK_THRESHOLD = Gauge(
    "unirig_storage_disk_threshold_bytes",
    "Bytes free below which the storage is at this level: warning, critical.",
    ["level"],
)
EVENTS_APPLIED = Counter(
    "unirig_storage_events_total", "Events from the EVENTS stream, by outcome.", ["outcome"]
)
# From the start, so that a first event is seen as an increase.
for _area in ("uploads", "results"):
    for _counter in (BYTES_WRITTEN, BYTES_READ, FILES_WRITTEN):
        _counter.labels(_area)
for _direction in ("in", "out"):
    TRANSFERS.labels(_direction)
