"""What the sessions service counts."""

from prometheus_client import Counter, Gauge

from services.sessions.rate_limits import LimitName

AUTHORIZED = Counter(
    "unirig_authorize_total", "Requests decided, by access and outcome.", ["access", "outcome"]
)
RATE_LIMITED = Counter(
    "unirig_rate_limited_total", "Requests refused, by the limit that was exceeded.", ["limit"]
)
SESSIONS_CREATED = Counter("unirig_sessions_created_total", "Sessions stored: first writes.")
SESSIONS_ENDED = Counter(
    "unirig_sessions_ended_total", "Stored sessions ended: deleted or expired.", ["reason"]
)
EVENTS_PUBLISHED = Counter(
    "unirig_session_events_published_total", "SessionEnded events put on the stream."
)
EVENTS_WAITING = Gauge(
    "unirig_session_events_waiting", "Ended sessions whose event is not yet on the stream, capped."
)
EVENTS_WAITING.set(0)
# From the start, so that a first event is seen as an increase.
for _limit in LimitName:
    RATE_LIMITED.labels(_limit)
for _reason in ("deleted", "expired"):
    SESSIONS_ENDED.labels(_reason)
