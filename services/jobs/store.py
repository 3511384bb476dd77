"""Job records in Redis. Every change is one script of scripts/; keys.lua there names all keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from unirig.v1 import jobs_pb2

from services.common.errors import ApiError, ErrorCode
from services.jobs.outbox_message import OutboxMessage, decode, encode
from services.jobs.record import STATUS_NAMES, TYPE_NAMES, Record, read_record

log = structlog.get_logger(__name__)

_SCRIPTS = resources.files("services.jobs") / "scripts"
_FORGET_BATCH = 500


def connect_redis(url: str) -> "Redis":
    """A client that connects when it is used. Nothing is tried twice: a script may have run."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=64,
        timeout=2,
        socket_timeout=2,
        socket_connect_timeout=1,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis(connection_pool=pool)


@dataclass(frozen=True)
class Change:
    """What a script did: its verdict, and the record after it where there is one."""

    verdict: str
    record: Record | None


class JobStore:
    """Every method raises ApiError SERVICE_UNAVAILABLE where Redis can't be used."""

    def __init__(self, redis: "Redis", patience_ms: int) -> None:
        """patience_ms: how long an active job may be silent before it is suspect."""
        keys = (_SCRIPTS / "keys.lua").read_text()
        self._redis = redis
        self._patience_ms = patience_ms
        self._scripts = {
            file.name.removesuffix(".lua"): redis.register_script(keys + file.read_text())
            for file in _SCRIPTS.iterdir()
            if file.name.endswith(".lua") and file.name != "keys.lua"
        }

    async def answers(self) -> bool:
        """Whether Redis does."""
        try:
            return bool(await self._redis.ping())
        except (RedisError, OSError):
            return False

    async def create(
        self, job_id: str, session_id: str, spec: jobs_pb2.JobSpec, command: OutboxMessage
    ) -> jobs_pb2.Job:
        """Raises ApiError CONCURRENT_JOB_LIMIT or SESSION_NOT_FOUND."""
        verdict, *rest = await self._run(
            "create",
            job_id,
            session_id,
            TYPE_NAMES[spec.type],
            spec.SerializeToString(),
            encode(command),
            self._patience_ms,
        )
        match verdict.decode():
            case "busy":
                raise ApiError(
                    ErrorCode.CONCURRENT_JOB_LIMIT,
                    "Cannot create new job: Active job already exists for this session",
                    {"job_id": rest[0].decode()},
                )
            case "session_ended":
                raise ApiError(ErrorCode.SESSION_NOT_FOUND, "Session not found")
        record = read_record(job_id, rest[0])
        assert record is not None  # noqa: S101 - the script has just written it
        return record.job

    async def get(self, job_id: str) -> Record | None:
        return read_record(job_id, await self._run("get", job_id))

    async def page(
        self, session_id: str, status: "jobs_pb2.JobStatus.ValueType", offset: int, limit: int
    ) -> tuple[list[jobs_pb2.Job], int]:
        """A page of the session's jobs, newest first, and how many all pages have."""
        name = STATUS_NAMES.get(status, "")
        total, *rest = await self._run("list", session_id, name, offset, limit)
        records = [
            read_record(job_id.decode(), flat)
            for job_id, flat in zip(rest[::2], rest[1::2], strict=True)
        ]
        return [record.job for record in records if record], total

    async def count(self, session_id: str) -> dict[str, int]:
        """How many jobs the session has, by the state's name."""
        counts = await self._run("count", session_id)
        return dict(zip(STATUS_NAMES.values(), counts, strict=True))

    async def claim(self, job_id: str, attempt: int, engine: str, version: str) -> Change:
        """Verdicts: "started", "restarted", "running" (claimed before), "refused"."""
        return await self._change("claim", job_id, attempt, engine, version, self._patience_ms)

    async def progress(self, job_id: str, attempt: int, progress: int, message: str) -> Change:
        """Verdicts: "changed", "unchanged", "refused"."""
        return await self._change("progress", job_id, attempt, progress, message, self._patience_ms)

    async def finish(
        self,
        job_id: str,
        status: "jobs_pb2.JobStatus.ValueType",
        fields: Mapping[str, str | bytes | int],
        *,
        session_id: str = "",
        attempt: int | None = None,
        message: OutboxMessage | None = None,
    ) -> Change:
        """Ends an active job. Verdicts: "finished", "final", "superseded", "missing".

        session_id, attempt: refused unless these are the record's; empty and None: any.
        """
        return await self._change(
            "finish",
            job_id,
            session_id,
            STATUS_NAMES[status],
            "" if attempt is None else attempt,
            message.id if message else "",
            encode(message) if message else "",
            *(part for field in fields.items() for part in field),
        )

    async def hand_back(
        self, job_id: str, attempt: int, message: str, command: OutboxMessage
    ) -> Change:
        """Queues a running job anew. Verdicts: "queued", "unchanged" (handed back before),
        "final", "superseded", "missing"."""
        return await self._change(
            "hand_back", job_id, attempt, message, command.id, encode(command), self._patience_ms
        )

    async def delete(self, job_id: str, session_id: str, message: OutboxMessage) -> str:
        """Verdicts: "deleted", "active", "missing"."""
        change = await self._change("delete", job_id, session_id, message.id, encode(message))
        return change.verdict

    async def forget(self, session_id: str, remember_seconds: int) -> str | None:
        """Refuses the session from now on and forgets its jobs.

        Returns its active job where there is one: it must be cancelled, and this called again.
        """
        while True:
            verdict, *rest = await self._run(
                "forget", session_id, remember_seconds * 1000, _FORGET_BATCH
            )
            if verdict == b"active":
                return str(rest[0].decode())
            if verdict == b"done":
                return None

    async def enqueue(self, message: OutboxMessage) -> None:
        await self._run("enqueue", message.id, encode(message))

    async def waiting(self, limit: int) -> tuple[list[OutboxMessage], int]:
        """The oldest messages in the outbox, and how many it has."""
        total, *rest = await self._run("waiting", limit)
        ids_and_texts = zip(rest[::2], rest[1::2], strict=True)
        return [decode(id_.decode(), text) for id_, text in ids_and_texts], total

    async def published(self, message: OutboxMessage, sequence: int) -> None:
        await self._run("published", message.id, message.job_id, sequence, self._patience_ms)

    async def redispatch(self, job_id: str, lost_sequence: int, command: OutboxMessage) -> bool:
        """Whether the job still waits for a worker and its command goes out again."""
        change = await self._change(
            "redispatch", job_id, lost_sequence, command.id, encode(command), self._patience_ms
        )
        return change.verdict == "queued"

    async def suspects(self, limit: int) -> tuple[list[str], int]:
        """Active jobs that have been silent too long, and how many are active in all."""
        total, *jobs = await self._run("suspects", limit, self._patience_ms)
        return [job.decode() for job in jobs], total

    async def _change(self, script: str, job_id: str, *rest: str | bytes | int) -> Change:
        verdict, *record = await self._run(script, job_id, *rest)
        return Change(verdict.decode(), read_record(job_id, record[0]) if record else None)

    async def _run(self, script: str, *args: str | bytes | int) -> Any:
        try:
            return await self._scripts[script](args=args)
        except (RedisError, OSError) as error:
            log.warning("redis failed", script=script, error=str(error) or type(error).__name__)
            raise ApiError(
                ErrorCode.SERVICE_UNAVAILABLE,
                "The service is temporarily unavailable. Please try again shortly.",
            ) from error
