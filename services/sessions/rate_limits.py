"""The rate limits as the client sees them: which one is shown, and what a refusal says."""

import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

WINDOW_SECONDS = 3600


class LimitName(StrEnum):
    API = "api"
    UPLOADS = "uploads"
    NEW_SESSIONS = "new_sessions"


@dataclass(frozen=True)
class Limits:
    """Requests allowed in the window, by limit."""

    api: int
    uploads: int
    new_sessions: int


@dataclass(frozen=True)
class LimitState:
    """One limit's window at one moment."""

    name: LimitName
    # Requests allowed in the window, and left in it.
    limit: int
    remaining: int
    # When the window has a place again that it has not now, Unix microseconds.
    reset_us: int

    @property
    def reset_at(self) -> int:
        """The same in whole Unix seconds, never too early."""
        return -(-self.reset_us // 1_000_000)

    def retry_after(self, now_us: int) -> int:
        """Seconds until the window has a place again, at least 1."""
        return max(1, -(-(self.reset_us - now_us) // 1_000_000))

    def metadata(self) -> dict[str, str]:
        """The facts that a refusal carries about it."""
        return {
            "limit": str(self.limit),
            "remaining": str(self.remaining),
            "reset": str(self.reset_at),
        }


def tightest(states: Sequence[LimitState]) -> LimitState:
    """The limit with the least remaining of those that the documented headers are about.

    The limit on new sessions belongs to the client's address, not to the session, and is shown only
    when it refuses.
    """
    shown = [state for state in states if state.name is not LimitName.NEW_SESSIONS]
    return min(shown, key=lambda state: state.remaining)


def exceeded(states: Sequence[LimitState]) -> LimitState:
    """Of the limits with nothing remaining the one that takes longest to have a place again."""
    return max(
        (state for state in states if state.remaining == 0), key=lambda state: state.reset_us
    )


def refusal_text(state: LimitState, retry_after: int) -> str:
    """What the client reads when the limit refuses. retry_after: seconds."""
    if state.name is LimitName.UPLOADS:
        return f"Rate limit exceeded. Maximum {_count(state.limit, 'upload')} per hour."
    if retry_after < 60:
        return f"Rate limit exceeded. Try again in {_count(retry_after, 'second')}."
    minutes = math.ceil(retry_after / 60)
    return f"Rate limit exceeded. Try again in {_count(minutes, 'minute')}."


def address_group(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 network that one IPv6 client owns.

    Whatever is no address is counted together, as "unknown".
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
