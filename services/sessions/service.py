"""The gRPC service: who may do what, and how often."""

import time
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from unirig.v1 import sessions_pb2 as pb
from unirig.v1 import sessions_pb2_grpc

from services.common.errors import ApiError, ErrorCode
from services.common.paths import is_session_id
from services.sessions.ending import SessionEnding
from services.sessions.metrics import AUTHORIZED, RATE_LIMITED, SESSIONS_CREATED
from services.sessions.rate_limits import (
    WINDOW_SECONDS,
    LimitName,
    Limits,
    LimitState,
    address_group,
    exceeded,
    refusal_text,
    tightest,
)
from services.sessions.records import Decision, Outcome, Request, SessionRecords, Token, Trace
from services.sessions.tokens import Cookie, CsrfToken, Signer, new_session_id

_SECOND_US = 1_000_000
# A cookie is renewed once it is older than this part of its life: it must not die in the browser
# while its session is in use.
_RENEWALS_PER_LIFE = 24


@dataclass(frozen=True)
class _Rule:
    """What an access asks for and leaves behind."""

    needs_session: bool
    needs_token: bool
    issues_token: bool
    charged: bool
    trace: Trace


_LOOKS = _Rule(
    needs_session=False, needs_token=False, issues_token=False, charged=False, trace=Trace.LOOK
)
_READS_OPTIONALLY = _Rule(
    needs_session=False, needs_token=False, issues_token=False, charged=False, trace=Trace.TOUCH
)
_ISSUES = _Rule(
    needs_session=False, needs_token=False, issues_token=True, charged=True, trace=Trace.TOUCH
)
_READS = _Rule(
    needs_session=True, needs_token=False, issues_token=False, charged=True, trace=Trace.TOUCH
)
_WRITES = _Rule(
    needs_session=True, needs_token=True, issues_token=False, charged=True, trace=Trace.STORE
)
_RULES = {
    pb.ACCESS_PEEK: _LOOKS,
    pb.ACCESS_OPTIONAL: _READS_OPTIONALLY,
    pb.ACCESS_ISSUE_TOKEN: _ISSUES,
    pb.ACCESS_READ: _READS,
    pb.ACCESS_WRITE: _WRITES,
    pb.ACCESS_UPLOAD: _WRITES,
}


class SessionsService(sessions_pb2_grpc.SessionsServiceServicer):
    """Answers for the sessions."""

    def __init__(
        self,
        signer: Signer,
        records: SessionRecords,
        ending: SessionEnding,
        limits: Limits,
        ttl_seconds: int,
    ) -> None:
        self._signer = signer
        self._records = records
        self._ending = ending
        self._limits = limits
        self._ttl_seconds = ttl_seconds

    async def Authorize(self, request: pb.AuthorizeRequest, context: Any) -> pb.AuthorizeResponse:
        rule = _RULES.get(request.access)
        if rule is None:
            raise ApiError(ErrorCode.INVALID_REQUEST, "The access must be specified")
        access = pb.Access.Name(request.access)
        try:
            response = await self._authorize(request, rule)
        except ApiError as refusal:
            AUTHORIZED.labels(access, refusal.code).inc()
            raise
        AUTHORIZED.labels(access, "OK").inc()
        return response

    async def GetSession(
        self, request: pb.GetSessionRequest, context: Any
    ) -> pb.GetSessionResponse:
        _check_id(request.session_id)
        times = await self._records.times(request.session_id)
        if times is None:
            raise _no_such_session()
        return pb.GetSessionResponse(
            session_id=request.session_id,
            created_at=_timestamp(times.created_us),
            last_activity=_timestamp(times.last_activity_us),
        )

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: Any
    ) -> pb.DeleteSessionResponse:
        _check_id(request.session_id)
        await self._ending.delete(request.session_id)
        return pb.DeleteSessionResponse()

    async def _authorize(self, request: pb.AuthorizeRequest, rule: _Rule) -> pb.AuthorizeResponse:
        is_upload = request.access == pb.ACCESS_UPLOAD
        cookie = self._signer.read_cookie(request.cookie)
        token = self._signer.read_csrf_token(request.csrf_token)
        # A token makes a session only where no cookie at all is shown.
        makes_session = rule.issues_token or (rule.needs_token and not request.cookie)
        if cookie is None and not makes_session:
            return self._without_session(request, rule, is_upload)
        decision = await self._records.authorize(
            Request(
                token=_token_state(rule, request.csrf_token, token, cookie),
                trace=rule.trace,
                charged=rule.charged,
                is_upload=is_upload,
                address=address_group(request.client_address),
                shown_id=cookie.session_id if cookie else "",
                shown_issued_at=cookie.issued_at if cookie else 0,
                fresh_id=new_session_id() if makes_session else "",
                token_session_id=token.session_id if token else "",
                token_issued_at=token.issued_at if token else 0,
                token_digest=token.digest if token else "",
            )
        )
        if decision.outcome is Outcome.ENDED:
            return self._without_session(request, rule, is_upload)
        _refuse_unless_ok(decision)
        if decision.made:
            SESSIONS_CREATED.inc()
        return self._allow(decision, rule, cookie)

    def _without_session(
        self, request: pb.AuthorizeRequest, rule: _Rule, is_upload: bool
    ) -> pb.AuthorizeResponse:
        """The answer where no live session was shown and none is made."""
        unused = self._unused_limit(is_upload)
        if rule.needs_session:
            problem = "The session is invalid or has ended" if request.cookie else "No session"
            raise ApiError(
                ErrorCode.UNAUTHORIZED,
                f"{problem}: get a session from GET /api/csrf-token",
                unused.metadata(),
            )
        return pb.AuthorizeResponse(rate_limit=_message(unused))

    def _unused_limit(self, is_upload: bool) -> LimitState:
        name, limit = (
            (LimitName.UPLOADS, self._limits.uploads)
            if is_upload
            else (LimitName.API, self._limits.api)
        )
        reset_us = (int(time.time()) + WINDOW_SECONDS) * _SECOND_US
        return LimitState(name, limit, limit, reset_us)

    def _allow(
        self, decision: Decision, rule: _Rule, cookie: Cookie | None
    ) -> pb.AuthorizeResponse:
        now = decision.now_us // _SECOND_US
        response = pb.AuthorizeResponse(
            session_id=decision.session_id, rate_limit=_message(tightest(decision.limits))
        )
        if self._cookie_is_due(decision.session_id, rule, cookie, now):
            response.new_cookie = self._signer.cookie(decision.session_id, now)
            response.cookie_max_age_seconds = self._ttl_seconds
        if rule.issues_token:
            response.csrf_token = self._signer.csrf_token(decision.session_id, now)
        return response

    def _cookie_is_due(self, session_id: str, rule: _Rule, cookie: Cookie | None, now: int) -> bool:
        if cookie is None or cookie.session_id != session_id:
            return True
        age = now - cookie.issued_at
        return rule.trace is not Trace.LOOK and age > self._ttl_seconds / _RENEWALS_PER_LIFE


def _token_state(rule: _Rule, shown: str, token: CsrfToken | None, cookie: Cookie | None) -> Token:
    if not rule.needs_token:
        return Token.UNNEEDED
    if not shown:
        return Token.MISSING
    if token is None:
        return Token.INVALID
    if cookie is None:
        return Token.ALONE
    return Token.BOUND if token.session_id == cookie.session_id else Token.FOREIGN


def _refuse_unless_ok(decision: Decision) -> None:
    shown = tightest(decision.limits).metadata()
    match decision.outcome:
        case Outcome.TOKEN_MISSING:
            raise ApiError(ErrorCode.CSRF_TOKEN_MISSING, "CSRF token not provided", shown)
        case Outcome.TOKEN_INVALID:
            raise ApiError(ErrorCode.CSRF_TOKEN_INVALID, "CSRF token verification failed", shown)
        case Outcome.LIMITED:
            state = exceeded(decision.limits)
            retry_after = state.retry_after(decision.now_us)
            RATE_LIMITED.labels(state.name).inc()
            raise ApiError(
                ErrorCode.RATE_LIMIT_EXCEEDED,
                refusal_text(state, retry_after),
                {**state.metadata(), "retry_after": str(retry_after)},
            )


def _check_id(session_id: str) -> None:
    if not is_session_id(session_id):
        raise _no_such_session()


def _no_such_session() -> ApiError:
    return ApiError(ErrorCode.SESSION_NOT_FOUND, "Session not found")


def _message(state: LimitState) -> pb.RateLimit:
    return pb.RateLimit(
        limit=state.limit, remaining=state.remaining, reset_unix_seconds=state.reset_at
    )


def _timestamp(unix_us: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMicroseconds(unix_us)
    return timestamp
