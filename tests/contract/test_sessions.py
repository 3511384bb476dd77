"""The sessions service over real gRPC, Redis and NATS: who gets in, how often, and for how long."""

import asyncio
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import nats
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from nats.js.errors import NotFoundError
from redis.asyncio import Redis
from unirig.v1 import messages_pb2, sessions_pb2_grpc
from unirig.v1 import sessions_pb2 as pb

from services.cli.servers import free_port, start_nats, start_redis, wait_for_port
from services.common.errors import ApiError, ErrorCode, api_error_of
from services.common.subjects import EVENTS_STREAM, SESSION_ENDED
from services.sessions.rate_limits import Limits
from services.sessions.records import SessionRecords
from services.sessions.tokens import Signer

ROOT = Path(__file__).parents[2]
KEY, OLD_KEY = secrets.token_hex(32), secrets.token_hex(32)
SIGNER = Signer([KEY.encode()])
TTL = 86400
HOUR_US = 3600 * 1_000_000
API, UPLOADS, NEW_SESSIONS = 12, 3, 4
SERVICE = "unirig.v1.SessionsService"
_ADDRESSES = ip_network("198.18.0.0/15").hosts()

PEEK, OPTIONAL, ISSUE = pb.ACCESS_PEEK, pb.ACCESS_OPTIONAL, pb.ACCESS_ISSUE_TOKEN
READ, WRITE, UPLOAD = pb.ACCESS_READ, pb.ACCESS_WRITE, pb.ACCESS_UPLOAD


@dataclass
class Running:
    """One process of the service."""

    process: "subprocess.Popen[bytes]"
    log: Path
    metrics_url: str
    channel: grpc.aio.Channel
    stub: Any

    def client(self, address: str = "") -> "Client":
        """A client with an address of its own, if none is given."""
        return Client(self.stub, address or str(next(_ADDRESSES)))

    async def health(self) -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))
        return int(answer.status)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(self.metrics_url + path) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as refusal:
            return refusal.code, ""


@dataclass
class Client:
    """A browser as the gateway sees it: it keeps the cookie that it is given."""

    stub: Any
    address: str
    cookie: str = ""
    token: str = ""
    rate_limit: Any = field(default=None, repr=False)

    @property
    def session_id(self) -> str:
        return self.cookie.partition(".")[0]

    async def do(self, access: int, token: str = "", keeps_cookie: bool = True) -> Any:
        request = pb.AuthorizeRequest(
            access=pb.Access.ValueType(access),
            cookie=self.cookie,
            csrf_token=token,
            client_address=self.address,
        )
        answer = await self.stub.Authorize(request, timeout=15)
        if answer.new_cookie and keeps_cookie:
            self.cookie = answer.new_cookie
        return answer

    async def change(self, access: int = WRITE) -> Any:
        return await self.do(access, self.token)

    async def begin(self) -> "Client":
        """Gets a token and the cookie with it."""
        self.token = (await self.do(ISSUE)).csrf_token
        return self

    async def stored(self) -> "Client":
        await self.begin()
        await self.change()
        return self

    async def refused(self, access: int, token: str = "") -> ApiError:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await self.do(access, token)
        return api_error_of(failure.value)


def start_process(environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "services.sessions"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


@asynccontextmanager
async def running(
    folder: Path, redis_url: str, nats_url: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """The service as a process of its own, stopped at the end if it still runs."""
    grpc_port, metrics_port = free_port(), free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")]),
        "BIND_HOST": "127.0.0.1",
        "GRPC_PORT": str(grpc_port),
        "METRICS_PORT": str(metrics_port),
        "REDIS_URL": redis_url,
        "NATS_URL": nats_url,
        "SIGNING_KEYS": KEY,
        "SWEEP_INTERVAL_SECONDS": "0.2",
        "RATE_LIMIT_API_PER_HOUR": str(API),
        "RATE_LIMIT_UPLOADS_PER_HOUR": str(UPLOADS),
        "RATE_LIMIT_NEW_SESSIONS_PER_HOUR": str(NEW_SESSIONS),
        **(settings or {}),
    }
    log = folder / f"sessions-{grpc_port}.log"
    process = start_process(environment, log)
    try:
        started = await asyncio.to_thread(wait_for_port, metrics_port, process)
        assert started, log.read_text()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            stub = sessions_pb2_grpc.SessionsServiceStub(channel)
            yield Running(process, log, f"http://127.0.0.1:{metrics_port}", channel, stub)
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 30)
        finally:
            process.kill()


async def eventually(check: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not await check():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
async def database_url(redis_url: str) -> str:
    """An own, empty database: sweepers must not end the sessions of other tests."""
    url = re.sub(r"/0$", "/5", redis_url)
    async with Redis.from_url(url) as redis:
        await redis.flushdb()
    return url


@pytest.fixture(scope="module")
async def redis(database_url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(database_url, decode_responses=True) as redis:
        yield redis


@pytest.fixture(scope="module")
async def jetstream(nats_url: str) -> AsyncIterator[Any]:
    connection = await nats.connect(nats_url)
    yield connection.jetstream()
    await connection.close()


@pytest.fixture(scope="module")
async def service(
    tmp_path_factory: pytest.TempPathFactory, database_url: str, nats_url: str
) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("sessions")
    async with running(folder, database_url, nats_url) as service:
        yield service


@pytest.fixture
def client(service: Running) -> Client:
    return service.client()


@pytest.fixture
async def records(database_url: str) -> AsyncIterator[SessionRecords]:
    records = SessionRecords(database_url, TTL, Limits(API, UPLOADS, NEW_SESSIONS))
    yield records
    await records.close()


async def age_log(redis: Any, log: str, seconds: float) -> None:
    """Makes every request in a log older."""
    for name, score in await redis.zrange(log, 0, -1, withscores=True):
        await redis.zadd(log, {name: score - seconds * 1e6})


async def age_session(redis: Any, session_id: str, seconds: float) -> None:
    """Makes a session's last activity earlier."""
    record = f"sessions:record:{session_id}"
    earlier = int(await redis.hget(record, "last_activity")) - round(seconds * 1e6)
    await redis.hset(record, "last_activity", earlier)
    await redis.zadd("sessions:activity", {session_id: earlier})


async def ended_events(jetstream: Any, session_id: str) -> int:
    """How many SessionEnded events of the session are on the stream."""
    count, sequence = 0, 1
    while True:
        try:
            message = await jetstream.get_msg(
                EVENTS_STREAM, seq=sequence, subject=SESSION_ENDED, next=True
            )
        except NotFoundError:
            return count
        count += messages_pb2.SessionEnded.FromString(message.data).session_id == session_id
        sequence = message.seq + 1


async def announced_once(redis: Any, jetstream: Any, session_id: str) -> None:
    """Waits for the session's event, and until nothing more is to be published."""

    async def is_announced() -> bool:
        waiting = await redis.zscore("sessions:outbox", session_id)
        return waiting is None and await ended_events(jetstream, session_id) > 0

    await eventually(is_announced)
    assert await ended_events(jetstream, session_id) == 1


def facts(error: ApiError) -> tuple[int, int]:
    """Limit and remaining in a refusal."""
    return int(error.metadata["limit"]), int(error.metadata["remaining"])


# The reference's three walkthroughs, as they reach this service.


async def test_a_client_with_a_cookie_jar_has_one_session_throughout(client: Client) -> None:
    issued = await client.do(ISSUE)
    assert issued.session_id == client.session_id
    assert re.fullmatch("[0-9a-f]{32}", issued.session_id)
    assert issued.cookie_max_age_seconds == TTL
    for access in (UPLOAD, WRITE):
        answer = await client.do(access, issued.csrf_token)
        assert (answer.session_id, answer.new_cookie) == (issued.session_id, "")
        assert answer.csrf_token == ""
    assert (await client.do(READ)).session_id == issued.session_id
    assert (await client.do(OPTIONAL)).session_id == issued.session_id


async def test_curl_which_keeps_the_cookie_only_from_the_upload_on_gets_through(
    client: Client,
) -> None:
    token = (await client.do(ISSUE, keeps_cookie=False)).csrf_token
    assert client.cookie == ""
    upload = await client.do(UPLOAD, token)
    assert client.session_id == upload.session_id
    assert upload.cookie_max_age_seconds == TTL
    assert (await client.do(WRITE, token)).session_id == upload.session_id
    assert (await client.do(READ)).session_id == upload.session_id
    # The last step downloads without the cookie.
    client.cookie = ""
    assert (await client.do(OPTIONAL)).session_id == ""


# Tokens and cookies.


async def test_a_token_without_a_cookie_makes_another_session_each_time(client: Client) -> None:
    await client.begin()
    own = client.session_id
    seen = {own}
    for access in (WRITE, UPLOAD):
        client.cookie = ""
        seen.add((await client.change(access)).session_id)
    assert len(seen) == 3


async def test_a_token_alone_never_opens_the_session_it_is_bound_to(client: Client) -> None:
    await client.stored()
    bound_to = client.session_id
    client.cookie = ""
    assert (await client.change()).session_id != bound_to


async def test_an_attackers_token_does_not_work_with_a_victims_cookie(
    service: Running, redis: Any
) -> None:
    attacker, victim = await service.client().stored(), await service.client().begin()
    for _ in range(2):
        refusal = await victim.refused(WRITE, attacker.token)
        assert refusal.code is ErrorCode.CSRF_TOKEN_INVALID
        assert refusal.detail == "CSRF token verification failed"
        assert not await redis.exists(f"sessions:record:{victim.session_id}")
        # Nor when the attacker has made a session with the token alone.
        attacker.cookie = ""
        await attacker.change()
    await victim.change()
    assert (await victim.refused(WRITE, attacker.token)).code is ErrorCode.CSRF_TOKEN_INVALID


async def test_a_token_adopted_by_one_session_works_with_no_other(service: Running) -> None:
    first, second = service.client(), service.client()
    first.token = (await first.do(ISSUE, keeps_cookie=False)).csrf_token
    second.token = (await second.do(ISSUE, keeps_cookie=False)).csrf_token
    await first.change()
    await second.change()
    assert (await first.refused(WRITE, second.token)).code is ErrorCode.CSRF_TOKEN_INVALID
    assert (await second.refused(WRITE, first.token)).code is ErrorCode.CSRF_TOKEN_INVALID
    await first.change()
    await second.change()


async def test_a_second_token_keeps_the_session_and_the_first_token(client: Client) -> None:
    await client.begin()
    again = await client.do(ISSUE)
    assert (again.session_id, again.new_cookie) == (client.session_id, "")
    assert again.csrf_token != client.token
    for token in (client.token, again.csrf_token):
        assert (await client.do(WRITE, token)).session_id == client.session_id


async def test_a_session_made_with_a_token_takes_tokens_of_its_own_too(client: Client) -> None:
    client.token = (await client.do(ISSUE, keeps_cookie=False)).csrf_token
    made = await client.change()
    own = (await client.do(ISSUE)).csrf_token
    for token in (own, client.token):
        assert (await client.do(WRITE, token)).session_id == made.session_id


FORGED = [
    "session123",
    "0" * 32,
    f"{'0' * 32}.secret",
    f"{'0' * 32}.{'0' * 74}",
    Signer([OLD_KEY.encode()]).cookie("0" * 32, int(time.time())),
    "é" * 107,
]


@pytest.mark.parametrize("cookie", FORGED)
async def test_a_forged_cookie_opens_nothing(client: Client, cookie: str) -> None:
    token = (await client.begin()).token
    client.cookie = cookie
    for access in (READ, WRITE, UPLOAD):
        # Not even with a good token: the cookie comes first.
        refusal = await client.refused(access, token)
        assert refusal.code is ErrorCode.UNAUTHORIZED
        assert "GET /api/csrf-token" in refusal.detail
    for access in (PEEK, OPTIONAL):
        assert (await client.do(access)).session_id == ""
    renewed = await client.do(ISSUE)
    assert renewed.session_id not in ("", "0" * 32)
    assert (await client.do(WRITE, renewed.csrf_token)).session_id == renewed.session_id


async def test_the_id_of_a_session_without_its_secret_opens_nothing(
    service: Running, client: Client
) -> None:
    await client.stored()
    stranger = await service.client().begin()
    secret = stranger.cookie.partition(".")[2]
    for cookie in (client.session_id, f"{client.session_id}.", f"{client.session_id}.{secret}"):
        stranger.cookie = cookie
        assert (await stranger.refused(READ)).code is ErrorCode.UNAUTHORIZED


async def test_a_read_without_a_cookie_is_told_where_to_get_one(client: Client) -> None:
    refusal = await client.refused(READ)
    assert refusal.code is ErrorCode.UNAUTHORIZED
    assert refusal.detail.endswith("get a session from GET /api/csrf-token")


@pytest.mark.parametrize("access", [WRITE, UPLOAD])
@pytest.mark.parametrize("with_cookie", [True, False])
async def test_a_change_needs_a_good_token(client: Client, access: int, with_cookie: bool) -> None:
    await client.begin()
    own = client.token
    if not with_cookie:
        client.cookie = ""
    missing = await client.refused(access)
    assert missing.code is ErrorCode.CSRF_TOKEN_MISSING
    assert missing.detail == "CSRF token not provided"
    old = Signer([OLD_KEY.encode()]).csrf_token("0" * 32, int(time.time()))
    for wrong in ("a1b2c3d4", own[:-1], own + "0", own[::-1], "é", old):
        assert (await client.refused(access, wrong)).code is ErrorCode.CSRF_TOKEN_INVALID


async def test_a_token_alone_is_good_for_the_ttl_only(client: Client) -> None:
    now = int(time.time())
    stale = SIGNER.csrf_token("1" * 32, now - TTL - 1)
    assert (await client.refused(WRITE, stale)).code is ErrorCode.CSRF_TOKEN_INVALID
    assert (await client.do(WRITE, SIGNER.csrf_token("1" * 32, now - TTL + 60))).new_cookie


async def test_with_its_cookie_a_token_lives_as_long_as_its_session(client: Client) -> None:
    await client.stored()
    aged = SIGNER.csrf_token(client.session_id, int(time.time()) - 10 * TTL)
    assert (await client.do(WRITE, aged)).session_id == client.session_id


async def test_an_access_must_be_named(client: Client) -> None:
    assert (await client.refused(pb.ACCESS_UNSPECIFIED)).code is ErrorCode.INVALID_REQUEST


# What is stored, and for how long.


async def test_nothing_is_stored_before_the_first_write(client: Client, redis: Any) -> None:
    await client.begin()
    for access in (READ, OPTIONAL, PEEK, ISSUE):
        await client.do(access)
    assert not await redis.exists(f"sessions:record:{client.session_id}")
    assert await redis.zscore("sessions:activity", client.session_id) is None
    await client.change()
    assert await redis.exists(f"sessions:record:{client.session_id}")


async def test_a_refused_change_stores_nothing(client: Client, redis: Any) -> None:
    await client.begin()
    await client.refused(WRITE)
    await client.refused(WRITE, "a1b2c3d4")
    assert not await redis.exists(f"sessions:record:{client.session_id}")


async def test_an_unstored_session_is_good_for_the_ttl_after_its_issue(client: Client) -> None:
    now = int(time.time())
    client.cookie = SIGNER.cookie(secrets.token_hex(16), now - TTL - 1)
    assert (await client.refused(READ)).code is ErrorCode.UNAUTHORIZED
    client.cookie = SIGNER.cookie(secrets.token_hex(16), now - TTL + 60)
    assert (await client.do(READ)).session_id == client.session_id


async def test_once_stored_the_record_decides_and_not_the_cookies_age(client: Client) -> None:
    await client.stored()
    session_id = client.session_id
    client.cookie = SIGNER.cookie(session_id, int(time.time()) - 30 * TTL)
    assert (await client.do(READ)).session_id == session_id


async def test_a_cookie_in_use_is_renewed_before_it_dies_in_the_browser(client: Client) -> None:
    await client.stored()
    session_id = client.session_id
    client.cookie = SIGNER.cookie(session_id, int(time.time()) - TTL // 24 - 60)
    assert (await client.do(PEEK)).new_cookie == ""
    renewed = await client.do(READ)
    assert renewed.new_cookie.startswith(f"{session_id}.")
    assert renewed.cookie_max_age_seconds == TTL
    assert (await client.do(READ)).new_cookie == ""


async def test_a_sessions_times_are_known_from_its_first_write_on(client: Client) -> None:
    await client.begin()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.stub.GetSession(pb.GetSessionRequest(session_id=client.session_id))
    assert api_error_of(failure.value).code is ErrorCode.SESSION_NOT_FOUND
    before = time.time()
    await client.change()
    first = await client.stub.GetSession(pb.GetSessionRequest(session_id=client.session_id))
    assert first.session_id == client.session_id
    assert first.created_at.ToMicroseconds() == first.last_activity.ToMicroseconds()
    assert before - 5 < first.created_at.ToMicroseconds() / 1e6 < time.time() + 5
    await client.do(READ)
    later = await client.stub.GetSession(pb.GetSessionRequest(session_id=client.session_id))
    assert later.created_at == first.created_at
    assert later.last_activity.ToMicroseconds() > first.last_activity.ToMicroseconds()


@pytest.mark.parametrize("session_id", ["", "session123", "A" * 32, "0" * 32, "*" * 32])
async def test_an_unknown_session_has_no_times(client: Client, session_id: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.stub.GetSession(pb.GetSessionRequest(session_id=session_id))
    assert api_error_of(failure.value).code is ErrorCode.SESSION_NOT_FOUND


@pytest.mark.parametrize(
    ("access", "counts"), [(READ, True), (OPTIONAL, True), (ISSUE, True), (PEEK, False)]
)
async def test_every_access_but_a_peek_is_activity(
    client: Client, redis: Any, access: int, counts: bool
) -> None:
    await client.stored()
    await age_session(redis, client.session_id, TTL / 2)
    before = await redis.zscore("sessions:activity", client.session_id)
    await client.do(access)
    after = await redis.zscore("sessions:activity", client.session_id)
    assert (after > before) == counts
    record = await redis.hget(f"sessions:record:{client.session_id}", "last_activity")
    assert int(record) == after


# The ends of sessions.


async def test_a_deleted_session_is_over_at_once_and_for_good(
    client: Client, redis: Any, jetstream: Any
) -> None:
    await client.stored()
    ended, cookie = client.session_id, client.cookie
    await client.stub.DeleteSession(pb.DeleteSessionRequest(session_id=ended))
    for access in (READ, WRITE, UPLOAD):
        assert (await client.refused(access, client.token)).code is ErrorCode.UNAUTHORIZED
    for access in (PEEK, OPTIONAL):
        assert (await client.do(access)).session_id == ""
    with pytest.raises(grpc.aio.AioRpcError):
        await client.stub.GetSession(pb.GetSessionRequest(session_id=ended))
    await announced_once(redis, jetstream, ended)
    # The next token comes with another session.
    assert (await client.do(ISSUE)).session_id != ended
    client.cookie = cookie
    assert (await client.refused(READ)).code is ErrorCode.UNAUTHORIZED


async def test_the_tokens_of_a_deleted_session_make_no_session(client: Client) -> None:
    own = (await client.stored()).token
    await client.stub.DeleteSession(pb.DeleteSessionRequest(session_id=client.session_id))
    client.cookie = ""
    assert (await client.refused(WRITE, own)).code is ErrorCode.CSRF_TOKEN_INVALID
    adopted = (await client.do(ISSUE, keeps_cookie=False)).csrf_token
    await client.do(WRITE, adopted)
    await client.stub.DeleteSession(pb.DeleteSessionRequest(session_id=client.session_id))
    client.cookie = ""
    assert (await client.refused(WRITE, adopted)).code is ErrorCode.CSRF_TOKEN_INVALID


async def test_deleting_one_session_leaves_another_with_the_same_token_alone(
    client: Client,
) -> None:
    client.token = (await client.do(ISSUE, keeps_cookie=False)).csrf_token
    first = (await client.change()).session_id
    client.cookie = ""
    second = (await client.change()).session_id
    await client.stub.DeleteSession(pb.DeleteSessionRequest(session_id=first))
    assert (await client.change()).session_id == second


async def test_deleting_again_changes_nothing(client: Client, redis: Any, jetstream: Any) -> None:
    await client.stored()
    for _ in range(3):
        await client.stub.DeleteSession(pb.DeleteSessionRequest(session_id=client.session_id))
        await announced_once(redis, jetstream, client.session_id)


async def test_deleting_at_once_from_everywhere_ends_it_once(
    client: Client, redis: Any, jetstream: Any
) -> None:
    await client.stored()
    request = pb.DeleteSessionRequest(session_id=client.session_id)
    await asyncio.gather(*(client.stub.DeleteSession(request) for _ in range(20)))
    await announced_once(redis, jetstream, client.session_id)


async def test_deleting_a_session_that_was_never_stored_still_ends_its_cookie(
    client: Client, redis: Any, jetstream: Any
) -> None:
    await client.begin()
    await client.stub.DeleteSession(pb.DeleteSessionRequest(session_id=client.session_id))
    assert (await client.refused(WRITE, client.token)).code is ErrorCode.UNAUTHORIZED
    # It has no jobs and no files: there is nothing to tell anybody.
    assert await redis.zscore("sessions:outbox", client.session_id) is None
    assert await ended_events(jetstream, client.session_id) == 0


async def test_a_tombstone_outlives_every_cookie_that_could_revive_the_session(
    client: Client, redis: Any
) -> None:
    await client.stored()
    session_id = client.session_id
    await client.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id))
    client.cookie = SIGNER.cookie(session_id, int(time.time()))
    assert (await client.refused(READ)).code is ErrorCode.UNAUTHORIZED
    assert await redis.ttl(f"sessions:ended:{session_id}") > TTL - 60


async def test_an_ended_session_leaves_only_its_tombstone(
    client: Client, redis: Any, jetstream: Any
) -> None:
    await client.stored()
    await client.change(UPLOAD)
    await client.stub.DeleteSession(pb.DeleteSessionRequest(session_id=client.session_id))
    await announced_once(redis, jetstream, client.session_id)
    left = [key async for key in redis.scan_iter(f"*{client.session_id}*")]
    assert left == [f"sessions:ended:{client.session_id}"]
    assert await redis.zscore("sessions:activity", client.session_id) is None


async def test_an_idle_session_expires_with_one_event_however_many_replicas_look(
    service: Running, redis: Any, jetstream: Any, tmp_path: Path, database_url: str, nats_url: str
) -> None:
    async with running(tmp_path, database_url, nats_url):
        clients = [await service.client().stored() for _ in range(10)]
        for client in clients:
            await age_session(redis, client.session_id, TTL)
        for client in clients:
            assert (await client.refused(READ)).code is ErrorCode.UNAUTHORIZED
            await announced_once(redis, jetstream, client.session_id)
            assert await redis.ttl(f"sessions:ended:{client.session_id}") > TTL - 60
            assert (await client.refused(READ)).code is ErrorCode.UNAUTHORIZED


async def test_a_session_that_is_over_is_refused_before_anyone_has_swept_it(
    service: Running, tmp_path: Path, database_url: str, redis: Any, nats_url: str
) -> None:
    url = database_url.replace("/5", "/6")
    settings = {"SWEEP_INTERVAL_SECONDS": "3600"}
    async with (
        running(tmp_path, url, nats_url, settings) as slow,
        Redis.from_url(url, decode_responses=True) as other,
    ):
        await other.flushdb()
        client = await slow.client().stored()
        await age_session(other, client.session_id, TTL)
        assert (await client.refused(WRITE, client.token)).code is ErrorCode.UNAUTHORIZED
        with pytest.raises(grpc.aio.AioRpcError):
            await slow.stub.GetSession(pb.GetSessionRequest(session_id=client.session_id))
        assert await other.exists(f"sessions:record:{client.session_id}")
        assert (await client.do(ISSUE)).session_id not in ("", client.token[:32])


async def test_a_session_in_use_does_not_expire(client: Client, redis: Any) -> None:
    await client.stored()
    session_id = client.session_id
    for _ in range(3):
        await age_session(redis, session_id, TTL - 60)
        assert (await client.do(READ)).session_id == session_id


async def test_an_activity_after_the_sweeper_looked_saves_the_session(
    client: Client, records: SessionRecords
) -> None:
    await client.stored()
    # What a sweeper does whose list is out of date.
    assert not await records.expire(client.session_id)
    assert (await client.do(READ)).session_id == client.session_id


async def test_an_end_whose_event_a_crash_left_behind_is_published(
    tmp_path: Path, redis_url: str, jetstream: Any, nats_url: str
) -> None:
    url = re.sub(r"/0$", "/7", redis_url)
    records = SessionRecords(url, TTL, Limits(API, UPLOADS, NEW_SESSIONS))
    async with Redis.from_url(url, decode_responses=True) as redis:
        await redis.flushdb()
        async with running(tmp_path, url, nats_url) as service:
            client = await service.client().stored()
            service.process.kill()
        # The script has run, and nothing after it.
        assert await records.delete(client.session_id)
        assert await ended_events(jetstream, client.session_id) == 0
        async with running(tmp_path, url, nats_url):
            await announced_once(redis, jetstream, client.session_id)
    await records.close()


async def test_an_event_that_a_crash_left_in_the_outbox_is_not_published_twice(
    client: Client, redis: Any, jetstream: Any
) -> None:
    await client.stored()
    await client.stub.DeleteSession(pb.DeleteSessionRequest(session_id=client.session_id))
    await announced_once(redis, jetstream, client.session_id)
    # As if the process had died after the publication and before its note of it.
    await redis.zadd("sessions:outbox", {client.session_id: 1})
    await announced_once(redis, jetstream, client.session_id)


# Rate limits.


async def test_uploads_are_limited_and_charged_to_both_limits(client: Client) -> None:
    await client.begin()
    for number in range(UPLOADS):
        shown = (await client.change(UPLOAD)).rate_limit
        assert (shown.limit, shown.remaining) == (UPLOADS, UPLOADS - 1 - number)
        assert 3500 < shown.reset_unix_seconds - time.time() <= 3601
    refusal = await client.refused(UPLOAD, client.token)
    assert refusal.code is ErrorCode.RATE_LIMIT_EXCEEDED
    assert refusal.detail == f"Rate limit exceeded. Maximum {UPLOADS} uploads per hour."
    assert facts(refusal) == (UPLOADS, 0)
    retry_after = int(refusal.metadata["retry_after"])
    assert 3500 < retry_after <= 3600
    assert abs(int(refusal.metadata["reset"]) - time.time() - retry_after) < 5
    # Other requests go on: a token, the uploads and this one were charged; the refusal was not.
    shown = (await client.do(READ)).rate_limit
    assert (shown.limit, shown.remaining) == (API, API - 1 - UPLOADS - 1)


async def test_requests_are_limited_and_a_refusal_says_when_to_come_again(
    client: Client, redis: Any
) -> None:
    await client.begin()
    for number in range(1, API):
        shown = (await client.do(READ)).rate_limit
        assert (shown.limit, shown.remaining) == (API, API - 1 - number)
    log = f"sessions:rate:api:{client.session_id}"
    await age_log(redis, log, 15 * 60)
    for access in (READ, ISSUE):
        refusal = await client.refused(access)
        assert refusal.code is ErrorCode.RATE_LIMIT_EXCEEDED
        assert refusal.detail == "Rate limit exceeded. Try again in 45 minutes."
        assert facts(refusal) == (API, 0)
        assert 2640 < int(refusal.metadata["retry_after"]) <= 2700
    # What is never charged is never refused.
    shown = (await client.do(PEEK)).rate_limit
    assert (shown.limit, shown.remaining) == (API, 0)
    assert (await client.do(OPTIONAL)).session_id == client.session_id
    assert await redis.zcard(log) == API


async def test_the_window_slides_one_place_at_a_time(client: Client, redis: Any) -> None:
    await client.begin()
    log = f"sessions:rate:uploads:{client.session_id}"
    await client.change(UPLOAD)
    await age_log(redis, log, 1800)
    await client.change(UPLOAD)
    await age_log(redis, log, 1200)
    await client.change(UPLOAD)
    refusal = await client.refused(UPLOAD, client.token)
    assert 540 < int(refusal.metadata["retry_after"]) <= 600
    await age_log(redis, log, 601)
    shown = (await client.change(UPLOAD)).rate_limit
    assert shown.remaining == 0
    # The next place is that of the second upload.
    assert 1700 < shown.reset_unix_seconds - time.time() <= 1800
    refusal = await client.refused(UPLOAD, client.token)
    assert 1700 < int(refusal.metadata["retry_after"]) <= 1800


async def test_an_upload_shows_the_requests_left_where_they_are_fewer(client: Client) -> None:
    await client.begin()
    for _ in range(API - 3):
        await client.do(READ)
    shown = (await client.change(UPLOAD)).rate_limit
    assert (shown.limit, shown.remaining) == (API, 1)
    await client.do(READ)
    refusal = await client.refused(UPLOAD, client.token)
    assert refusal.detail.startswith("Rate limit exceeded. Try again in ")
    assert facts(refusal) == (API, 0)


async def test_requests_at_once_are_not_let_through_together(client: Client) -> None:
    await client.begin()
    answers = await asyncio.gather(
        *(client.change(UPLOAD) for _ in range(8)), return_exceptions=True
    )
    allowed = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert sorted(answer.rate_limit.remaining for answer in allowed) == list(range(UPLOADS))
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert {api_error_of(failure).code for failure in refused} == {ErrorCode.RATE_LIMIT_EXCEEDED}


async def test_a_token_comes_with_the_request_limit_of_its_session(client: Client) -> None:
    first = (await client.do(ISSUE)).rate_limit
    assert (first.limit, first.remaining) == (API, API - 1)
    second = (await client.do(ISSUE)).rate_limit
    assert (second.limit, second.remaining) == (API, API - 2)


async def test_a_peek_shows_the_limit_and_charges_nothing(client: Client) -> None:
    for _ in range(2):
        shown = (await client.do(PEEK)).rate_limit
        assert (shown.limit, shown.remaining) == (API, API)
        assert 3500 < shown.reset_unix_seconds - time.time() <= 3601
    await client.begin()
    for _ in range(2):
        answer = await client.do(PEEK)
        assert answer.session_id == client.session_id
        assert (answer.rate_limit.limit, answer.rate_limit.remaining) == (API, API - 1)


async def test_a_refusal_for_want_of_a_token_shows_the_limit_and_is_not_charged(
    client: Client,
) -> None:
    await client.begin()
    for token in ("", "a1b2c3d4", "", "a1b2c3d4"):
        assert facts(await client.refused(WRITE, token)) == (API, API - 1)
        assert facts(await client.refused(UPLOAD, token)) == (UPLOADS, UPLOADS)


async def test_a_refusal_without_a_session_shows_the_whole_limit(client: Client) -> None:
    for access, token, limit in ((READ, "", API), (WRITE, "", API), (UPLOAD, "x", UPLOADS)):
        refusal = await client.refused(access, token)
        assert facts(refusal) == (limit, limit)
        assert int(refusal.metadata["reset"]) > time.time()
        assert "retry_after" not in refusal.metadata


async def test_new_sessions_of_one_address_are_limited(service: Running, redis: Any) -> None:
    address = "203.0.113.77"
    settled = await service.client(address).begin()
    for _ in range(NEW_SESSIONS - 2):
        await service.client(address).begin()
    # A token alone makes a session as well.
    await service.client(address).do(WRITE, settled.token)
    log = f"sessions:rate:new:{address}"
    await age_log(redis, log, 3600 - 30)
    newcomer = service.client(address)
    for access, token in ((ISSUE, ""), (WRITE, settled.token), (UPLOAD, settled.token)):
        refusal = await newcomer.refused(access, token)
        assert refusal.code is ErrorCode.RATE_LIMIT_EXCEEDED
        assert re.fullmatch(r"Rate limit exceeded. Try again in \d+ seconds?\.", refusal.detail)
        assert facts(refusal) == (NEW_SESSIONS, 0)
    # Who has a session goes on, and so does another address.
    await settled.change()
    await settled.do(ISSUE)
    await service.client("203.0.113.78").begin()
    await age_log(redis, log, 31)
    await newcomer.begin()


async def test_one_ipv6_network_is_one_client(service: Running) -> None:
    for number in range(NEW_SESSIONS):
        await service.client(f"2001:db8:7:7::{number + 1:x}").begin()
    refusal = await service.client("2001:db8:7:7:ffff::1").refused(ISSUE)
    assert refusal.code is ErrorCode.RATE_LIMIT_EXCEEDED
    await service.client("2001:db8:7:8::1").begin()


async def test_sessions_do_not_share_a_limit(service: Running) -> None:
    first, second = await service.client().begin(), await service.client().begin()
    for _ in range(UPLOADS):
        await first.change(UPLOAD)
    assert (await second.change(UPLOAD)).rate_limit.remaining == UPLOADS - 1


async def test_a_log_goes_away_by_itself(client: Client, redis: Any) -> None:
    await client.begin()
    await client.change(UPLOAD)
    for log in (
        f"sessions:rate:api:{client.session_id}",
        f"sessions:rate:uploads:{client.session_id}",
        f"sessions:rate:new:{client.address}",
    ):
        assert 0 < await redis.pttl(log) <= HOUR_US / 1000


# Keys, outages and the process.


async def test_keys_rotate_without_ending_a_session(
    service: Running, tmp_path: Path, database_url: str, nats_url: str
) -> None:
    rotated = {"SIGNING_KEYS": f"{OLD_KEY},{KEY}"}
    async with running(tmp_path, database_url, nats_url, rotated) as after:
        before = await service.client().stored()
        client = Client(after.stub, before.address, before.cookie, before.token)
        assert (await client.change()).session_id == before.session_id
        fresh = await after.client().begin()
        # A replica that does not have the new key yet does not know what it has signed.
        stranger = Client(service.stub, fresh.address, fresh.cookie)
        assert (await stranger.refused(READ)).code is ErrorCode.UNAUTHORIZED


async def test_without_redis_the_service_says_so_and_comes_back_by_itself(
    tmp_path: Path, nats_url: str
) -> None:
    port = free_port()
    redis = start_redis(tmp_path / "redis", port)
    try:
        async with running(tmp_path, redis.url, nats_url) as service:
            client = await service.client().stored()

            async def is_ready() -> bool:
                serving = await service.health() == health_pb2.HealthCheckResponse.SERVING
                return serving and service.get("/readyz")[0] == 200

            async def is_not_ready() -> bool:
                serving = await service.health() == health_pb2.HealthCheckResponse.SERVING
                return not serving and service.get("/readyz")[0] == 503

            await eventually(is_ready)
            redis.process.kill()
            redis.process.wait()
            await eventually(is_not_ready)
            assert service.get("/healthz")[0] == 200
            for access in (READ, WRITE, ISSUE):
                refusal = await client.refused(access, client.token)
                assert refusal.code is ErrorCode.SERVICE_UNAVAILABLE
                assert "127.0.0.1" not in refusal.detail
                assert str(port) not in refusal.detail
            # Health and documentation need no session and no Redis.
            client.cookie, cookie = "", client.cookie
            assert (await client.do(PEEK)).rate_limit.limit == API
            client.cookie = cookie

            redis = start_redis(tmp_path / "redis", port)
            await eventually(is_ready)
            assert (await client.change()).session_id == client.session_id
            assert service.process.poll() is None
    finally:
        redis.stop()


async def test_a_redis_that_hangs_is_an_outage_and_not_a_wait_for_ever(
    tmp_path: Path, nats_url: str
) -> None:
    redis = start_redis(tmp_path / "redis", free_port())
    try:
        async with running(tmp_path, redis.url, nats_url) as service:
            client = await service.client().stored()
            redis.process.send_signal(signal.SIGSTOP)
            refusals = await asyncio.gather(*(client.refused(READ) for _ in range(100)))
            assert {refusal.code for refusal in refusals} == {ErrorCode.SERVICE_UNAVAILABLE}
            redis.process.send_signal(signal.SIGCONT)
            await service.client().stored()
    finally:
        redis.process.send_signal(signal.SIGCONT)
        redis.stop()


async def test_the_service_starts_without_redis_and_nats_and_finds_them_later(
    tmp_path: Path,
) -> None:
    redis_port, nats_port = free_port(), free_port()
    urls = (f"redis://127.0.0.1:{redis_port}/0", f"nats://127.0.0.1:{nats_port}")
    async with running(tmp_path, *urls) as service:

        async def is_ready() -> bool:
            return service.get("/readyz")[0] == 200

        refusal = await service.client().refused(ISSUE)
        assert refusal.code is ErrorCode.SERVICE_UNAVAILABLE
        redis = start_redis(tmp_path / "redis", redis_port)
        try:
            await eventually(is_ready)
            # Without NATS sessions begin and end; only the event waits.
            client = await service.client().stored()
            await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=client.session_id))
            broker = start_nats(tmp_path / "nats", nats_port)
            try:
                connection = await nats.connect(urls[1])
                jetstream = connection.jetstream()

                async def has_streams() -> bool:
                    try:
                        return bool(await jetstream.stream_info(EVENTS_STREAM))
                    except NotFoundError:
                        return False

                await eventually(has_streams)
                async with Redis.from_url(urls[0], decode_responses=True) as records:
                    await announced_once(records, jetstream, client.session_id)
                await connection.close()
            finally:
                broker.stop()
        finally:
            redis.stop()


async def test_an_event_waits_for_nats_to_come_back(tmp_path: Path, database_url: str) -> None:
    port = free_port()
    broker = start_nats(tmp_path / "nats", port)
    url = database_url.replace("/5", "/8")
    try:
        async with (
            running(tmp_path, url, broker.url) as service,
            Redis.from_url(url, decode_responses=True) as redis,
        ):
            await redis.flushdb()
            client = await service.client().stored()
            broker.process.kill()
            broker.process.wait()
            await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=client.session_id))
            assert (await client.refused(READ)).code is ErrorCode.UNAUTHORIZED
            broker = start_nats(tmp_path / "nats", port)
            connection = await nats.connect(broker.url)
            await announced_once(redis, connection.jetstream(), client.session_id)
            await connection.close()
    finally:
        broker.stop()


async def test_sigterm_ends_the_process_in_good_order(
    tmp_path: Path, database_url: str, nats_url: str
) -> None:
    async with running(tmp_path, database_url, nats_url) as service:
        await service.client().stored()
        service.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(service.process.wait, 30) == 0
        assert "Traceback" not in service.log.read_text()


async def test_no_secret_reaches_the_log_or_the_metrics(
    tmp_path: Path, database_url: str, nats_url: str
) -> None:
    settings = {"LOG_LEVEL": "DEBUG"}
    async with running(tmp_path, database_url, nats_url, settings) as service:
        client = await service.client().stored()
        await client.refused(WRITE, "an-invalid-token")
        await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=client.session_id))
        await client.refused(READ)
        metrics = service.get("/metrics")[1]
    shown = service.log.read_text() + metrics
    assert client.session_id in shown
    for secret in (KEY, client.cookie.partition(".")[2], client.token, "an-invalid-token"):
        assert secret not in shown


async def test_what_happened_is_counted(tmp_path: Path, database_url: str, nats_url: str) -> None:
    async with running(tmp_path, database_url, nats_url) as service:
        client = await service.client().stored()
        for _ in range(UPLOADS):
            await client.change(UPLOAD)
        await client.refused(UPLOAD, client.token)
        await client.refused(WRITE)
        await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=client.session_id))

        async def is_published() -> bool:
            return "unirig_session_events_published_total 1.0" in service.get("/metrics")[1]

        await eventually(is_published)
        metrics = service.get("/metrics")[1].splitlines()
        assert "unirig_sessions_created_total 1.0" in metrics
        assert 'unirig_sessions_ended_total{reason="deleted"} 1.0' in metrics
        assert 'unirig_rate_limited_total{limit="uploads"} 1.0' in metrics
        assert "unirig_session_events_waiting 0.0" in metrics
        for access, outcome, count in (
            ("ACCESS_ISSUE_TOKEN", "OK", 1.0),
            ("ACCESS_UPLOAD", "OK", 3.0),
            ("ACCESS_UPLOAD", "RATE_LIMIT_EXCEEDED", 1.0),
            ("ACCESS_WRITE", "OK", 1.0),
            ("ACCESS_WRITE", "CSRF_TOKEN_MISSING", 1.0),
        ):
            labels = f'access="{access}",outcome="{outcome}"'
            assert f"unirig_authorize_total{{{labels}}} {count}" in metrics
