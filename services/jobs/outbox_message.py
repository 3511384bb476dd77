"""A message on its way from Redis to JetStream."""

import json
from dataclasses import dataclass, field

from services.common.tracing import trace_headers


@dataclass(frozen=True)
class OutboxMessage:
    """id goes out as Nats-Msg-Id, so that JetStream drops doubles.

    job_id: the job whose command this is; empty for anything else.
    trace: the headers of the trace in which it was made.
    """

    id: str
    subject: str
    payload: bytes
    job_id: str = ""
    request_id: str = ""
    trace: dict[str, str] = field(default_factory=trace_headers)


def encode(message: OutboxMessage) -> bytes:
    """One line of JSON and then the payload; the id is kept beside it."""
    head = {
        "subject": message.subject,
        "job_id": message.job_id,
        "request_id": message.request_id,
        "trace": message.trace,
    }
    return json.dumps(head).encode() + b"\n" + message.payload


def decode(id_: str, text: bytes) -> OutboxMessage:
    """The inverse of encode."""
    head, _, payload = text.partition(b"\n")
    return OutboxMessage(id=id_, payload=payload, **json.loads(head))
