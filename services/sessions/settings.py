"""What the sessions service reads from its environment."""

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.settings import RpcServiceSettings

_MIN_KEY_CHARACTERS = 32


class SessionsSettings(RpcServiceSettings):
    """Settings of the sessions service; each is the environment variable of the same name."""

    # A rejected key must not be printed with the reason for it.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    # A secret because it may hold a password.
    redis_url: SecretStr = SecretStr("redis://redis:6379/0")
    # Comma-separated, at least 32 characters each: the first signs, all verify. To rotate, append
    # the new key, put it first once every replica has it, and drop the old one a TTL later.
    signing_keys: SecretStr
    # A session ends this long after its last activity.
    session_ttl_seconds: int = Field(default=86400, ge=1)
    # How often ended sessions are looked for and their events published.
    sweep_interval_seconds: float = Field(default=5.0, gt=0)
    rate_limit_api_per_hour: int = Field(default=1000, ge=1)
    rate_limit_uploads_per_hour: int = Field(default=10, ge=1)
    # New sessions per client address; an IPv6 /64 network counts as one address.
    rate_limit_new_sessions_per_hour: int = Field(default=100, ge=1)

    @field_validator("signing_keys")
    @classmethod
    def _keys_are_long_enough(cls, keys: SecretStr) -> SecretStr:
        if any(len(key) < _MIN_KEY_CHARACTERS for key in _split(keys)):
            raise ValueError(f"each signing key needs at least {_MIN_KEY_CHARACTERS} characters")
        return keys

    def signing_key_bytes(self) -> list[bytes]:
        """The keys, the signing one first."""
        return [key.encode() for key in _split(self.signing_keys)]


def _split(keys: SecretStr) -> list[str]:
    return [key.strip() for key in keys.get_secret_value().split(",")]
