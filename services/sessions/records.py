"""The records of sessions in Redis. Its keys are explained at the head of each Lua script."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from services.common.errors import ApiError, ErrorCode
from services.sessions.rate_limits import WINDOW_SECONDS, LimitName, Limits, LimitState

log = structlog.get_logger(__name__)

_ACTIVITY = "sessions:activity"
_OUTBOX = "sessions:outbox"
_RECORD = "sessions:record:"
_ENDED = "sessions:ended:"
_ENDED_TOKEN = "sessions:ended-token:"  # noqa: S105 - a key's name, not a secret
_API_LOG = "sessions:rate:api:"
_UPLOADS_LOG = "sessions:rate:uploads:"
_NEW_LOG = "sessions:rate:new:"

_SECOND = 1_000_000
_TIMEOUT_SECONDS = 2.0


class Token(StrEnum):
    """What is known of a request's CSRF token before the session's record is looked at."""

    UNNEEDED = "unneeded"
    MISSING = "missing"
    # No key has signed it.
    INVALID = "invalid"
    # Issued for the session of the shown cookie.
    BOUND = "bound"
    # Issued for another session: good if the session was made with it.
    FOREIGN = "foreign"
    # Shown without a cookie: good for making a session.
    ALONE = "alone"


class Trace(StrEnum):
    """What an allowed request leaves behind, apart from the rate limits' logs."""

    LOOK = "look"
    # Its time, if the session is stored.
    TOUCH = "touch"
    # The record, made if need be.
    STORE = "store"


class Outcome(StrEnum):
    OK = "ok"
    ENDED = "ended"
    TOKEN_MISSING = "token_missing"  # noqa: S105 - an outcome, not a secret
    TOKEN_INVALID = "token_invalid"  # noqa: S105 - an outcome, not a secret
    LIMITED = "limited"


@dataclass(frozen=True)
class Request:
    """One request to decide, its cookie and token already known to be genuine where given."""

    token: Token
    trace: Trace
    # Whether the rate limits are charged, and whether that of uploads applies.
    charged: bool
    is_upload: bool
    # Who is limited in making sessions.
    address: str
    # Of the shown cookie; empty and 0: none. Issue times in Unix seconds.
    shown_id: str = ""
    shown_issued_at: int = 0
    # The session to make where none is shown or it has ended; empty: make none.
    fresh_id: str = ""
    # Of the token where it is FOREIGN or ALONE.
    token_session_id: str = ""
    token_issued_at: int = 0
    token_digest: str = ""


@dataclass(frozen=True)
class Decision:
    """What became of a request."""

    outcome: Outcome
    # Empty after ENDED.
    session_id: str
    # Unix microseconds, by the clock of Redis.
    now_us: int
    # Whether the session's record was made by this request.
    made: bool
    # Those that apply; none after ENDED.
    limits: tuple[LimitState, ...]


@dataclass(frozen=True)
class SessionTimes:
    """Unix microseconds."""

    created_us: int
    last_activity_us: int


class SessionRecords:
    """Reads and changes the records. Without Redis every method raises SERVICE_UNAVAILABLE."""

    def __init__(self, redis_url: str, ttl_seconds: int, limits: Limits) -> None:
        pool = BlockingConnectionPool.from_url(
            redis_url,
            max_connections=64,
            timeout=_TIMEOUT_SECONDS,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            decode_responses=True,
            # Once more on a new connection: those of before a restart of Redis are dead.
            retry=Retry(ConstantBackoff(0.05), 1, supported_errors=(RedisConnectionError,)),
        )
        self._redis = Redis(connection_pool=pool)
        self._ttl_us = ttl_seconds * _SECOND
        self._limits = limits
        self._authorize = self._redis.register_script(_script("authorize.lua"))
        self._end = self._redis.register_script(_script("end.lua"))

    async def authorize(self, request: Request) -> Decision:
        """Decides the request in one step and one round trip."""
        keys = [
            _ACTIVITY,
            _NEW_LOG + request.address,
            _ENDED + request.token_session_id,
            _ENDED_TOKEN + request.token_digest,
            *_session_keys(request.shown_id),
            *_session_keys(request.fresh_id),
        ]
        arguments: list[str | int] = [
            request.shown_id,
            request.shown_issued_at,
            request.fresh_id,
            request.token,
            request.token_digest,
            request.token_issued_at,
            request.trace,
            self._ttl_us,
            WINDOW_SECONDS * _SECOND,
            self._limits.api,
            self._limits.uploads if request.is_upload else 0,
            self._limits.new_sessions,
            int(request.charged),
        ]
        with _redis_answering():
            answer = await self._authorize(keys=keys, args=arguments)
        return _decision(answer)

    async def times(self, session_id: str) -> SessionTimes | None:
        """A live session's times; None where it was never stored or has ended."""
        with _redis_answering():
            async with self._redis.pipeline() as pipeline:
                pipeline.time()
                pipeline.hmget(_RECORD + session_id, ["created_at", "last_activity"])
                (seconds, microseconds), (created, last_activity) = await pipeline.execute()
        now = seconds * _SECOND + microseconds
        if last_activity is None or int(last_activity) + self._ttl_us <= now:
            return None
        return SessionTimes(int(created), int(last_activity))

    async def delete(self, session_id: str) -> bool:
        """Ends the session. Whether this call did: False for one that was never stored, too."""
        return await self._end_session(session_id, idle_us=0)

    async def expire(self, session_id: str) -> bool:
        """Ends the session if it is idle for the TTL. Whether this call did."""
        return await self._end_session(session_id, idle_us=self._ttl_us)

    async def idle(self, at_most: int) -> list[str]:
        """Ids of stored sessions whose TTL is over."""
        with _redis_answering():
            seconds, microseconds = await self._redis.time()
            latest = seconds * _SECOND + microseconds - self._ttl_us
            found = await self._redis.zrangebyscore(_ACTIVITY, "-inf", latest, start=0, num=at_most)
        return [str(session_id) for session_id in found]

    async def unpublished(self, at_most: int) -> list[str]:
        """Ids of ended sessions whose end is not yet published, the earliest first."""
        with _redis_answering():
            found = await self._redis.zrange(_OUTBOX, 0, at_most - 1)
        return [str(session_id) for session_id in found]

    async def mark_published(self, session_id: str) -> None:
        """The session's end is on the stream."""
        with _redis_answering():
            await self._redis.zrem(_OUTBOX, session_id)

    async def check(self) -> None:
        """Returns if Redis answers."""
        with _redis_answering():
            await self._redis.ping()

    async def close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def _end_session(self, session_id: str, idle_us: int) -> bool:
        keys = [*_session_keys(session_id), _ACTIVITY, _OUTBOX]
        arguments: list[str | int] = [session_id, self._ttl_us, idle_us, _ENDED_TOKEN]
        with _redis_answering():
            ended = await self._end(keys=keys, args=arguments)
        return bool(ended)


@contextmanager
def _redis_answering() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        log.warning("redis failed", error=str(error) or type(error).__name__)
        raise ApiError(
            ErrorCode.SERVICE_UNAVAILABLE,
            "The service is temporarily unavailable. Please try again shortly.",
        ) from error


def _session_keys(session_id: str) -> list[str]:
    return [prefix + session_id for prefix in (_RECORD, _ENDED, _API_LOG, _UPLOADS_LOG)]


def _decision(answer: list[Any]) -> Decision:
    outcome, session_id, now_us = answer[:3]
    limits = tuple(
        LimitState(LimitName(answer[at]), *answer[at + 1 : at + 4])
        for at in range(4, len(answer), 4)
    )
    made = len(answer) > 3 and answer[3] == 1
    return Decision(Outcome(outcome), session_id, now_us, made, limits)


def _script(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
