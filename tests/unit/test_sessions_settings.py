"""The sessions service's settings: what is read, what is refused, and what is never shown."""

import pytest
from pydantic import ValidationError

from services.sessions.settings import SessionsSettings

LONG, OTHER = "k" * 32, "o" * 40


def test_the_first_key_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNING_KEYS", f"{LONG}, {OTHER}")
    assert SessionsSettings().signing_key_bytes() == [LONG.encode(), OTHER.encode()]


@pytest.mark.parametrize("keys", ["", "short-secret", f"{LONG},", f"{LONG},short-secret"])
def test_a_short_key_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv("SIGNING_KEYS", keys)
    with pytest.raises(ValidationError, match="at least 32 characters") as refusal:
        SessionsSettings()
    assert "short-secret" not in str(refusal.value)
    assert LONG not in str(refusal.value)


def test_without_keys_the_service_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGNING_KEYS", raising=False)
    with pytest.raises(ValidationError, match="signing_keys"):
        SessionsSettings()


def test_no_secret_is_in_the_settings_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNING_KEYS", LONG)
    monkeypatch.setenv("REDIS_URL", "redis://:hunter2@redis:6379/0")
    assert LONG not in repr(SessionsSettings())
    assert "hunter2" not in repr(SessionsSettings())


def test_the_defaults_are_the_references_limits_and_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNING_KEYS", LONG)
    settings = SessionsSettings()
    assert settings.rate_limit_api_per_hour == 1000
    assert settings.rate_limit_uploads_per_hour == 10
    assert settings.rate_limit_new_sessions_per_hour == 100
    assert settings.session_ttl_seconds == 86400


@pytest.mark.parametrize(
    "name",
    [
        "SESSION_TTL_SECONDS",
        "RATE_LIMIT_API_PER_HOUR",
        "RATE_LIMIT_UPLOADS_PER_HOUR",
        "RATE_LIMIT_NEW_SESSIONS_PER_HOUR",
    ],
)
def test_a_limit_of_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("SIGNING_KEYS", LONG)
    monkeypatch.setenv(name, "0")
    with pytest.raises(ValidationError, match=name.lower()):
        SessionsSettings()
