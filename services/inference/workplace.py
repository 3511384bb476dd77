"""Where one attempt works: its folder, its steps, and what these may have left there."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import structlog
from prometheus_client import Counter, Histogram

from services.common.tracing import span
from services.inference.limited_process import Limits, StepError, run_step
from services.inference.progress import Progress, StepProgress
from services.inference.storage_client import StorageClient

log = structlog.get_logger(__name__)

STEP_SECONDS = Histogram(
    "unirig_step_duration_seconds",
    "Time a step took that succeeded.",
    ["step"],
    buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
)
STEPS_FAILED = Counter(
    "unirig_steps_failed_total",
    "Steps that refused their input, crashed or were killed at a limit, by error code.",
    ["step", "code"],
)

_MAX_REPORT_BYTES = 64 * 1024


@dataclass(frozen=True)
class Workplace:
    """folder: empty at first, the attempt's own. session_id: whose files these are."""

    folder: Path
    session_id: str
    storage: StorageClient
    limits: Limits
    progress: Progress
    # Models with more are refused.
    max_triangles: int

    @property
    def triangle_limit(self) -> list[str]:
        return ["--max-triangles", str(self.max_triangles)]

    async def fetch(self, paths: Iterable[str], report: StepProgress) -> dict[str, Path]:
        """Downloads stored files under safe names of ours; by their stored paths.

        All of a job's downloads come before its first step: a step could be led to leave links
        where the worker would write.
        """
        wanted = sorted(set(paths))
        files = {}
        with span("fetch"):
            for number, path in enumerate(wanted):
                report(number / len(wanted), "")
                files[path] = self.folder / f"input-{number}.{format_of(path)}"
                await self.storage.download(self.session_id, path, files[path])
        return files

    async def step(
        self,
        name: str,
        command: Sequence[object],
        report: StepProgress,
        crash_code: str = "INVALID_MESH",
    ) -> None:
        """Runs a confined program in the folder; StepError as run_step raises it."""
        start = time.perf_counter()
        try:
            with span(name):
                await run_step(
                    [str(argument) for argument in command],
                    scratch=self.folder,
                    limits=self.limits,
                    on_progress=report,
                    crash_code=crash_code,
                )
        except StepError as error:
            STEPS_FAILED.labels(name, error.code).inc()
            log.warning(
                "step failed", step=name, code=error.code, detail=error.detail, stderr=error.log
            )
            raise
        STEP_SECONDS.labels(name).observe(time.perf_counter() - start)

    def has(self, path: Path) -> bool:
        """Whether a step made this file, and not a link to what only the worker may read."""
        own = self.folder.resolve() / path.relative_to(self.folder)
        return path.resolve() == own and path.is_file()

    def notes(self, report: Path) -> list[str]:
        """The "notes" of a step's report, trusted no more than the step: short texts or nothing."""
        if not self.has(report) or report.stat().st_size > _MAX_REPORT_BYTES:
            return []
        try:
            notes = json.loads(report.read_text())["notes"]
        except (ValueError, RecursionError, TypeError, LookupError):
            return []
        if not isinstance(notes, list):
            return []
        return [note[:300] for note in notes[:20] if isinstance(note, str) and note.isprintable()]


def format_of(path: str) -> str:
    """The file name's extension, in lower case and without the dot."""
    return PurePosixPath(path).suffix.removeprefix(".").lower()
