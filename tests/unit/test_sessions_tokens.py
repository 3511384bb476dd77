"""Cookies and CSRF tokens: only what was signed is believed, and only for what it was signed."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sessions.tokens import Cookie, Signer, new_session_id

KEYS = st.binary(min_size=32, max_size=64)
TIMES = st.integers(min_value=0, max_value=2**40 - 1)
IDS = st.binary(min_size=16, max_size=16).map(bytes.hex)

OLD, NEW = b"an old key of more than 32 characters", b"a new key of more than 32 characters!"
SIGNER = Signer([OLD])


@given(key=KEYS, session_id=IDS, issued_at=TIMES)
def test_a_cookie_says_what_was_signed(key: bytes, session_id: str, issued_at: int) -> None:
    value = Signer([key]).cookie(session_id, issued_at)
    assert value.partition(".")[0] == session_id
    assert Signer([key]).read_cookie(value) == Cookie(session_id, issued_at)


@given(key=KEYS, session_id=IDS, issued_at=TIMES)
def test_a_token_says_what_was_signed(key: bytes, session_id: str, issued_at: int) -> None:
    token = Signer([key]).read_csrf_token(Signer([key]).csrf_token(session_id, issued_at))
    assert token is not None
    assert (token.session_id, token.issued_at) == (session_id, issued_at)


@given(at=st.integers(0, 106), character=st.sampled_from(string.hexdigits + ".-_~ é\n\0"))
def test_a_cookie_changed_in_any_place_is_forged(at: int, character: str) -> None:
    value = SIGNER.cookie("a1" * 16, 1_795_384_021)
    changed = value[:at] + character + value[at + 1 :]
    assert (SIGNER.read_cookie(changed) is None) == (changed != value)


@given(at=st.integers(0, 137), character=st.sampled_from(string.hexdigits + ".-_~ é\n\0"))
def test_a_token_changed_in_any_place_is_forged(at: int, character: str) -> None:
    value = SIGNER.csrf_token("a1" * 16, 1_795_384_021)
    changed = value[:at] + character + value[at + 1 :]
    assert (SIGNER.read_csrf_token(changed) is None) == (changed != value)


@given(value=st.text() | st.from_regex(r"[0-9a-f]{32}\.[0-9a-f]{74}", fullmatch=True))
def test_text_that_was_never_signed_is_neither_cookie_nor_token(value: str) -> None:
    assert SIGNER.read_cookie(value) is None
    assert SIGNER.read_csrf_token(value) is None


@pytest.mark.parametrize("addition", ["\n", " ", "0", ".0"])
def test_nothing_may_follow_a_cookie_or_a_token(addition: str) -> None:
    assert SIGNER.read_cookie(SIGNER.cookie("0" * 32, 5) + addition) is None
    assert SIGNER.read_csrf_token(SIGNER.csrf_token("0" * 32, 5) + addition) is None


@given(session_id=IDS, issued_at=TIMES)
def test_a_cookies_secret_signs_no_token_and_a_tokens_mac_no_cookie(
    session_id: str, issued_at: int
) -> None:
    cookie_mac = SIGNER.cookie(session_id, issued_at)[-64:]
    token = SIGNER.csrf_token(session_id, issued_at)
    assert SIGNER.read_csrf_token(token[:-64] + cookie_mac) is None
    assert SIGNER.read_cookie(f"{session_id}.{issued_at:010x}{token[-64:]}") is None


def test_a_secret_of_one_session_does_not_open_another() -> None:
    mine, theirs = SIGNER.cookie("1" * 32, 7), SIGNER.cookie("2" * 32, 7)
    assert SIGNER.read_cookie(f"{'2' * 32}.{mine.partition('.')[2]}") is None
    assert SIGNER.read_cookie(f"{'1' * 32}.{theirs.partition('.')[2]}") is None


def test_a_later_issue_time_cannot_be_written_over_an_earlier_one() -> None:
    value = SIGNER.cookie("1" * 32, 7)
    assert SIGNER.read_cookie(value.replace(f"{7:010x}", f"{8:010x}")) is None


def test_after_a_rotation_the_old_key_verifies_and_the_new_one_signs() -> None:
    before, rotated, after = Signer([OLD]), Signer([NEW, OLD]), Signer([NEW])
    cookie, token = before.cookie("3" * 32, 9), before.csrf_token("3" * 32, 9)
    assert rotated.read_cookie(cookie) == Cookie("3" * 32, 9)
    assert rotated.read_csrf_token(token) is not None
    assert after.read_cookie(rotated.cookie("3" * 32, 9)) == Cookie("3" * 32, 9)
    assert after.read_csrf_token(rotated.csrf_token("3" * 32, 9)) is not None


def test_a_key_that_is_gone_verifies_nothing() -> None:
    assert Signer([NEW]).read_cookie(SIGNER.cookie("3" * 32, 9)) is None
    assert Signer([NEW]).read_csrf_token(SIGNER.csrf_token("3" * 32, 9)) is None


def test_no_two_tokens_and_no_two_sessions_are_alike() -> None:
    assert len({SIGNER.csrf_token("3" * 32, 9) for _ in range(100)}) == 100
    assert len({new_session_id() for _ in range(100)}) == 100


def test_a_session_id_is_32_hex_digits() -> None:
    assert len(new_session_id()) == 32
    assert set(new_session_id()) <= set("0123456789abcdef")


def test_no_repr_shows_a_key_or_what_could_stand_for_a_token() -> None:
    token = SIGNER.read_csrf_token(SIGNER.csrf_token("3" * 32, 9))
    assert token is not None
    assert token.digest not in repr(token)
    assert OLD.decode() not in repr(SIGNER) + repr(vars(type(SIGNER)))


def test_a_signer_without_a_key_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="needs a key"):
        Signer([])
