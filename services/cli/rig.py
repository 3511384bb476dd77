"""`unirig rig`: one model in, one rigged file out, with a progress bar for each stage."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from services.cli.client import ClientError, UniRigClient

FORMATS = (".fbx", ".glb", ".vrm")


def rig(file: Path, outputs: Sequence[Path], url: str, console: Console) -> list[str]:
    """Rigs the file through the API at url and writes one file per output, by its suffix.

    Returns the notes that the service made about the results. ClientError says what went wrong.
    """
    if not file.is_file():
        raise ClientError(f"{file}: no such file")
    for out in outputs:
        if out.suffix.lower() not in FORMATS:
            raise ClientError(f"{out}: the output must end in {', '.join(FORMATS)}")
        out.parent.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}"),
    )
    with UniRigClient(url) as client, Progress(*columns, console=console) as bars:
        rows = [
            _Row(bars, bars.add_task(stage, total=1.0, start=False, message=""))
            for stage in ("Upload", "Skeleton", "Skinning", *(f"Merge {o.suffix}" for o in outputs))
        ]
        path = client.upload(file, rows[0])
        skeleton = client.run_job("skeleton", {"input_file": path}, rows[1])
        skinning = client.run_job("skinning", {"input_file": skeleton["output_file"]}, rows[2])
        jobs = [skeleton, skinning]
        for out, row in zip(outputs, rows[3:], strict=True):
            request = {
                "skeleton_file": skeleton["output_file"],
                "skinning_file": skinning["output_file"],
                "output_format": out.suffix.lower().lstrip("."),
            }
            jobs.append(client.run_job("merge", request, row))
            client.download(jobs[-1]["output_file"], out)
    return list(dict.fromkeys(note for job in jobs for note in job.get("notes", [])))


class _Row:
    """One stage's bar; called with how far the stage is, 0..1, and what it does."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def __call__(self, done: float, message: str) -> None:
        self._bars.start_task(self._task)
        self._bars.update(self._task, completed=done, message=message)
