"""What an inference worker reads from its environment."""

import tempfile
from pathlib import Path
from typing import Literal

from pydantic import Field

from services.common.settings import ServiceSettings
from services.inference.limited_process import GIB, Limits


class InferenceSettings(ServiceSettings):
    """Settings of an inference worker; each is the environment variable of the same name."""

    storage_address: str = "storage:50051"
    # Which engine predicts skeletons and weights.
    engine: Literal["geometric", "unirig"] = "geometric"
    # The Triton server of the unirig engine.
    triton_address: str = "triton:8001"
    # How long a job waits for a Triton that does not answer before it is handed back, seconds.
    triton_patience_seconds: float = 120.0
    # How long Triton may be silent in the midst of a prediction, seconds.
    triton_idle_seconds: float = 60.0
    # How long one prediction may take, seconds.
    triton_deadline_seconds: float = 900.0
    # Tensors travel in shared memory: where Triton runs on the same host and shares /dev/shm.
    triton_shared_memory: bool = False
    # Jobs run at the same time by this worker.
    concurrency: int = Field(default=1, ge=1)
    # Where jobs work; each has a folder of its own there, removed when it ends.
    scratch_folder: Path = Path(tempfile.gettempdir()) / "unirig-scratch"
    # How long one file may take to come from or go to storage, seconds.
    transfer_seconds: float = 300.0
    # How long a job waits for a storage that does not answer before it is handed back, seconds.
    storage_patience_seconds: float = 30.0
    # The pause before a job that met such a fault is tried again, seconds; tripled each time.
    retry_seconds: float = 5.0
    # Models with more triangles are refused.
    max_triangles: int = 5_000_000
    # What each step of a job may use.
    step_memory_gib: float = 8.0
    step_cpu_seconds: int = 900
    step_wall_seconds: float = 600.0
    step_threads: int = Field(default=2, ge=1)

    @property
    def step_limits(self) -> Limits:
        return Limits(
            memory_bytes=int(self.step_memory_gib * GIB),
            cpu_seconds=self.step_cpu_seconds,
            wall_seconds=self.step_wall_seconds,
            threads=self.step_threads,
        )
