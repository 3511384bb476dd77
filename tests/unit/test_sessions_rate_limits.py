"""Which limit a client is shown, what it is told, and who counts as one client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.rate_limits import (
    LimitName,
    LimitState,
    address_group,
    exceeded,
    refusal_text,
    tightest,
)

NOW = 1_795_384_021_000_000


def state(name: LimitName, limit: int, remaining: int, seconds: float = 0) -> LimitState:
    return LimitState(name, limit, remaining, NOW + round(seconds * 1e6))


def test_the_limit_with_the_least_remaining_is_shown() -> None:
    api, uploads = state(LimitName.API, 1000, 7), state(LimitName.UPLOADS, 10, 8)
    assert tightest([api, uploads]) is api
    assert tightest([state(LimitName.API, 1000, 9), uploads]) is uploads


def test_the_limit_of_the_clients_address_is_not_shown_as_the_sessions() -> None:
    api, new = state(LimitName.API, 1000, 999), state(LimitName.NEW_SESSIONS, 100, 3)
    assert tightest([api, new]) is api


def test_of_two_exceeded_limits_the_longer_wait_is_told() -> None:
    api = state(LimitName.API, 1000, 0, seconds=10)
    uploads = state(LimitName.UPLOADS, 10, 0, seconds=5)
    open_limit = state(LimitName.NEW_SESSIONS, 100, 1, seconds=99)
    assert exceeded([api, uploads, open_limit]) is api


@pytest.mark.parametrize(
    ("retry_after", "text"),
    [
        (2700, "Rate limit exceeded. Try again in 45 minutes."),
        (3600, "Rate limit exceeded. Try again in 60 minutes."),
        (61, "Rate limit exceeded. Try again in 2 minutes."),
        (60, "Rate limit exceeded. Try again in 1 minute."),
        (59, "Rate limit exceeded. Try again in 59 seconds."),
        (1, "Rate limit exceeded. Try again in 1 second."),
    ],
)
def test_a_refusal_says_when_to_come_again(retry_after: int, text: str) -> None:
    assert refusal_text(state(LimitName.API, 1000, 0), retry_after) == text
    assert refusal_text(state(LimitName.NEW_SESSIONS, 100, 0), retry_after) == text


@pytest.mark.parametrize(("limit", "uploads"), [(10, "10 uploads"), (1, "1 upload")])
def test_a_refused_upload_says_how_many_are_allowed(limit: int, uploads: str) -> None:
    text = refusal_text(state(LimitName.UPLOADS, limit, 0), 2700)
    assert text == f"Rate limit exceeded. Maximum {uploads} per hour."


@given(seconds=st.floats(-10, 3600))
def test_waiting_as_long_as_told_is_always_enough(seconds: float) -> None:
    limit = state(LimitName.API, 1000, 0, seconds)
    assert limit.retry_after(NOW) >= 1
    assert NOW + limit.retry_after(NOW) * 1_000_000 >= limit.reset_us
    assert limit.reset_at * 1_000_000 >= limit.reset_us
    assert limit.reset_at * 1_000_000 - limit.reset_us < 1_000_000


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        ("testclient", "unknown"),
        ("203.0.113.7, 198.51.100.1", "unknown"),
    ],
)
def test_an_ipv4_address_or_an_ipv6_network_is_one_client(address: str, group: str) -> None:
    assert address_group(address) == group
