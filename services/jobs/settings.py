"""What the jobs service reads from its environment."""

from pydantic import SecretStr

from services.common import subjects
from services.common.settings import RpcServiceSettings


class JobsSettings(RpcServiceSettings):
    # Secret, as it may hold a password.
    redis_url: SecretStr = SecretStr("redis://redis:6379/0")
    # A worker that says nothing to JetStream for this long is dead, seconds.
    ack_wait_seconds: float = subjects.ACK_WAIT.total_seconds()
    # Jobs that may be with workers at once.
    max_ack_pending: int = 1000
    # How often the outbox and silent jobs are looked at, seconds.
    sweep_seconds: float = 2.0
    # How long an ended session's id is refused, seconds.
    ended_session_seconds: int = 86_400

    @property
    def patience_ms(self) -> int:
        """How long an active job may be silent before somebody looks what became of it."""
        return int(self.ack_wait_seconds * 2000)
