"""What is known of a stored file beside its name and bytes, and how it is written down."""

from dataclasses import dataclass

from pydantic import AwareDatetime, TypeAdapter


@dataclass(frozen=True)
class Lineage:
    """Where a result came from; fields as in storage.proto, empty where there is nothing."""

    job_id: str
    stage: str
    asset_path: str
    arrays_path: str


@dataclass(frozen=True)
class Record:
    """Kept with the file and never changed."""

    # Bytes.
    size: int
    created_at: AwareDatetime
    # SHA-256 of the bytes, hex.
    etag: str
    # Results only.
    lineage: Lineage | None

    def is_of_job(self, job_id: str) -> bool:
        return self.lineage is not None and self.lineage.job_id == job_id

    def replaces(self, other: "Record") -> bool:
        """Whether both are results of the same job: a later attempt takes the earlier's place."""
        return self.lineage is not None and other.is_of_job(self.lineage.job_id)


_JSON = TypeAdapter(Record)


def encode_record(record: Record) -> bytes:
    """As JSON in UTF-8."""
    return _JSON.dump_json(record)


def decode_record(text: bytes) -> Record:
    """Reads what encode_record wrote. ValueError where it is something else."""
    return _JSON.validate_json(text)
