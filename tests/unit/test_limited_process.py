"""A step runs confined: what it cannot do, and how its end is told."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from services.inference.limited_process import GIB, Limits, StepError, run_step

LIMITS = Limits(memory_bytes=GIB, cpu_seconds=20, wall_seconds=30, file_bytes=10**7, threads=1)


async def run(scratch: Path, program: str, limits: Limits = LIMITS, code: str = "INVALID_MESH"):
    """Runs a Python program as a step; returns the progress it reported."""
    seen = []
    (scratch / "step.py").write_text(textwrap.dedent(program))
    await run_step(
        [sys.executable, "step.py"],
        scratch=scratch,
        limits=limits,
        on_progress=lambda fraction, message: seen.append((fraction, message)),
        crash_code=code,
    )
    return seen


async def refused(scratch: Path, program: str, **options) -> StepError:
    with pytest.raises(StepError) as caught:
        await run(scratch, program, **options)
    return caught.value


async def test_progress_lines_are_passed_on_and_other_output_is_ignored(tmp_path):
    seen = await run(
        tmp_path,
        """
        import json
        print("Blender says hello")
        print(json.dumps({"progress": 0.25, "message": "Reading mesh"}))
        print("[" * 100000)
        print(json.dumps([1]), json.dumps({"progress": 7}), sep="\\n")
        print("x" * 300000)
        print(json.dumps({"progress": 1, "message": "Done"}), end="")
        """,
    )
    assert seen == [(0.25, "Reading mesh")]  # the last line has no end: it is not a line


async def test_an_error_line_with_status_3_becomes_the_error_of_the_step(tmp_path):
    error = await refused(
        tmp_path,
        """
        import json, sys
        print(json.dumps({"error": "The model has no faces.", "error_code": "NO_FACES"}))
        sys.exit(3)
        """,
    )
    assert (error.code, error.detail) == ("NO_FACES", "The model has no faces.")


async def test_a_crash_is_an_invalid_mesh_in_words_a_user_understands(tmp_path):
    error = await refused(tmp_path, "import os; os.abort()")
    assert error.code == "INVALID_MESH"
    assert "could not be read" in error.detail
    error = await refused(tmp_path, "import ctypes; ctypes.string_at(0)", code="PROCESSING_FAILED")
    assert error.code == "PROCESSING_FAILED"


async def test_a_traceback_reaches_the_log_and_not_the_user(tmp_path):
    error = await refused(tmp_path, "raise RuntimeError('inner secret')")
    assert "inner secret" in error.log
    assert "inner secret" not in error.detail


async def test_a_memory_hog_is_stopped_and_told_why(tmp_path):
    error = await refused(tmp_path, "blocks = [bytearray(10**8) for _ in range(1000)]")
    assert error.code == "INVALID_MESH"
    assert "memory" in error.detail


async def test_an_endless_loop_ends_with_its_cpu_time(tmp_path):
    limits = Limits(memory_bytes=GIB, cpu_seconds=1, wall_seconds=60)
    assert (await refused(tmp_path, "while True: pass", limits=limits)).code == "TIMEOUT"


async def test_a_step_that_only_waits_ends_with_its_wall_time(tmp_path):
    limits = Limits(memory_bytes=GIB, wall_seconds=0.5)
    error = await refused(tmp_path, "import time; time.sleep(600)", limits=limits)
    assert error.code == "TIMEOUT"
    assert "longer" in error.detail


async def test_a_file_cannot_grow_beyond_its_limit(tmp_path):
    program = "open('big', 'wb').write(bytes(2 * 10**7))"
    await refused(tmp_path, program)
    assert (tmp_path / "big").stat().st_size <= LIMITS.file_bytes


async def test_sockets_are_refused(tmp_path):
    seen = await run(
        tmp_path,
        """
        import json, socket
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            try:
                socket.socket(family)
            except PermissionError:
                print(json.dumps({"progress": 1, "message": family.name}), flush=True)
        """,
    )
    assert [message for _, message in seen] == ["AF_INET", "AF_INET6", "AF_UNIX"]


async def test_no_child_can_be_left_behind_but_threads_work(tmp_path):
    seen = await run(
        tmp_path,
        """
        import json, os, subprocess, threading
        def say(message): print(json.dumps({"progress": 1, "message": message}), flush=True)
        for attempt in (os.fork, os.setsid, lambda: subprocess.Popen(["/bin/true"])):
            try:
                attempt()
            except PermissionError:
                say("refused")
        thread = threading.Thread(target=say, args=("thread",))
        thread.start()
        thread.join()
        """,
    )
    assert [message for _, message in seen] == ["refused", "refused", "refused", "thread"]


async def test_secrets_of_the_parents_environment_are_not_visible(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGNING_KEY", "hunter2")
    seen = await run(
        tmp_path,
        """
        import json, os
        print(json.dumps({"progress": 1, "message": " ".join(sorted(os.environ))}))
        """,
    )
    assert "SIGNING_KEY" not in seen[0][1]
    assert "HOME" in seen[0][1]


@pytest.mark.skipif(
    not Path("/sys/kernel/security").exists()
    or [int(part) for part in os.uname().release.split(".")[:2]] < [5, 13],
    reason="this kernel has no landlock",
)
async def test_files_outside_the_scratch_folder_can_neither_be_read_nor_written(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "secret.txt").write_text("hunter2")
    seen = await run(
        scratch,
        f"""
        import json, os, pathlib
        outside = pathlib.Path({str(tmp_path)!r})
        for attempt in (
            (outside / "secret.txt").read_text,
            lambda: (outside / "new.txt").write_text("x"),
            lambda: os.listdir(outside),
            pathlib.Path("/etc/passwd").read_text,
            pathlib.Path(f"/proc/{{os.getppid()}}/environ").read_bytes,
        ):
            try:
                attempt()
            except PermissionError:
                print(json.dumps({{"progress": 1, "message": "refused"}}), flush=True)
        pathlib.Path("inside.txt").write_text("fine")
        """,
    )
    assert len(seen) == 5
    assert (scratch / "inside.txt").read_text() == "fine"


async def test_a_module_among_the_users_files_is_not_imported(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    seen = []
    await run_step(
        [sys.executable, "-c", "import json; print(json.dumps({'progress': 1}))"],
        scratch=tmp_path,
        limits=LIMITS,
        on_progress=lambda fraction, message: seen.append(fraction),
    )
    assert seen == [1.0]


async def test_cancelling_kills_the_step_at_once(tmp_path):
    started = asyncio.get_running_loop().create_future()
    (tmp_path / "step.py").write_text(
        "import json, os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(json.dumps({'progress': 0, 'message': str(os.getpid())}), flush=True)\n"
        "time.sleep(600)\n"
    )
    task = asyncio.create_task(
        run_step(
            [sys.executable, "step.py"],
            scratch=tmp_path,
            limits=LIMITS,
            on_progress=lambda _, message: started.set_result(int(message)),
        )
    )
    child = await asyncio.wait_for(started, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_step_does_not_outlive_a_parent_that_is_killed(tmp_path):
    (tmp_path / "step.py").write_text(
        "import os, pathlib, time\n"
        "pathlib.Path('pid.part').write_text(str(os.getpid()))\n"
        "os.rename('pid.part', 'pid')\n"
        "time.sleep(600)\n"
    )
    program = f"""
        import asyncio, pathlib, sys
        from services.inference.limited_process import Limits, run_step
        scratch = pathlib.Path({str(tmp_path)!r})
        command = [sys.executable, "step.py"]
        asyncio.run(run_step(command, scratch=scratch, limits=Limits(), on_progress=print))
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=Path(__file__).parents[2]
    )
    wait_until((tmp_path / "pid").exists)
    step = Path("/proc", (tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    wait_until(lambda: not (step / "cwd").exists())


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_a_step_that_is_killed_from_outside_is_not_the_models_fault(tmp_path):
    (tmp_path / "step.py").write_text(
        "import json, os, time\n"
        "print(json.dumps({'progress': 0.5, 'message': str(os.getpid())}), flush=True)\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(ChildProcessError):
        await run_step(
            [sys.executable, "step.py"],
            scratch=tmp_path,
            limits=LIMITS,
            on_progress=lambda _, pid: os.kill(int(pid), signal.SIGKILL),
        )
