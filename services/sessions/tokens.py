"""Session cookies and CSRF tokens: made and verified without a look at any record.

cookie  <id>.<issue time><mac>           mac over id and issue time
token   <id><issue time><nonce><mac>     mac over the rest; id is the session it was issued for

id and nonce are 128 random bits, the issue time is in Unix seconds, the MAC is HMAC-SHA256; all in
lower-case hex digits of fixed width. The secret of a cookie is all that follows its dot.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

_COOKIE = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{10})([0-9a-f]{64})")
_TOKEN = re.compile(r"([0-9a-f]{32})([0-9a-f]{10})[0-9a-f]{32}([0-9a-f]{64})")
_MAC_DIGITS = 64


@dataclass(frozen=True)
class Cookie:
    """What a genuine cookie says."""

    session_id: str
    # Unix seconds.
    issued_at: int


@dataclass(frozen=True)
class CsrfToken:
    """What a genuine token says."""

    # The session it was issued for, 32 hex digits.
    session_id: str
    # Unix seconds.
    issued_at: int
    # SHA-256 of the token: tells it from every other without giving it away.
    digest: str = field(repr=False)


def new_session_id() -> str:
    """128 random bits as 32 hex digits."""
    return secrets.token_hex(16)


class Signer:
    """Makes cookies and tokens with its first key and verifies those of all its keys."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ValueError("a signer needs a key")
        self._keys = tuple(keys)

    def cookie(self, session_id: str, issued_at: int) -> str:
        """The value of a cookie for the session; issued_at in Unix seconds."""
        issued = f"{issued_at:010x}"
        return f"{session_id}.{issued}{_mac(self._keys[0], 'cookie', session_id + issued)}"

    def read_cookie(self, value: str) -> Cookie | None:
        """What the cookie says; None where none of the keys has signed it."""
        match = _COOKIE.fullmatch(value)
        if match is None or not self._verifies("cookie", match[1] + match[2], match[3]):
            return None
        return Cookie(match[1], int(match[2], 16))

    def csrf_token(self, session_id: str, issued_at: int) -> str:
        """A new token bound to the session; issued_at in Unix seconds."""
        content = f"{session_id}{issued_at:010x}{secrets.token_hex(16)}"
        return content + _mac(self._keys[0], "csrf-token", content)

    def read_csrf_token(self, value: str) -> CsrfToken | None:
        """What the token says; None where none of the keys has signed it."""
        match = _TOKEN.fullmatch(value)
        if match is None or not self._verifies("csrf-token", value[:-_MAC_DIGITS], match[3]):
            return None
        digest = hashlib.sha256(value.encode()).hexdigest()
        return CsrfToken(match[1], int(match[2], 16), digest)

    def _verifies(self, purpose: str, content: str, mac: str) -> bool:
        # All keys are tried, so that the time taken does not tell which one fits.
        matches = [hmac.compare_digest(_mac(key, purpose, content), mac) for key in self._keys]
        return any(matches)


def _mac(key: bytes, purpose: str, content: str) -> str:
    # The purpose keeps a cookie's MAC from ever being a token's.
    return hmac.new(key, f"{purpose}:{content}".encode(), hashlib.sha256).hexdigest()
