"""Runs one step of a job as a child process that cannot harm the worker.

A step is a program from files to files that parses what a stranger uploaded. The parent starts
this same file as a launcher (`python limited_process.py CONFINEMENT COMMAND...`), which gives up
everything the step does not need and then becomes the step:

- resource limits (setrlimit(2)): address space, CPU seconds, open files, file size, no core file;
- seccomp(2): no sockets, no new processes, no tracing or signalling of other processes;
- landlock(7), where the kernel has it (5.13 and later): files outside the scratch folder cannot be
  written, and only the interpreter, its libraries and our own code can be read;
- no capabilities, nothing of the parent's environment, a session of its own, death with the parent.

All of it works for an unprivileged user in a pod. The step speaks to the parent in JSON lines on
stdout: {"progress": 0..1, "message": "Reading mesh"}, or, before it exits with status 3,
{"error": "text a user understands", "error_code": "INVALID_MESH"}.
"""

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import platform
import re
import resource
import signal
import struct
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

REFUSED_STATUS = 3
GIB = 1024**3

_LAUNCHER = str(Path(__file__).resolve())
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_LINE_BYTES = 64 * 1024
_LOG_BYTES = 16 * 1024
_MEMORY_WORDS = re.compile(
    rb"MemoryError|bad_alloc|[Cc]annot allocate memory|Unable to allocate|alloc returns null"
)


@dataclass(frozen=True)
class Limits:
    """What one step may use.

    memory_bytes: address space; Blender alone maps about 1.3 GiB before it reads anything.
    cpu_seconds: CPU time of all threads together.
    wall_seconds: time until the step is killed.
    file_bytes: size of each file it writes.
    open_files: open file descriptors.
    threads: threads of numerical libraries (OMP_NUM_THREADS and the like).
    """

    memory_bytes: int = 8 * GIB
    cpu_seconds: int = 600
    wall_seconds: float = 300.0
    file_bytes: int = 1 * GIB
    open_files: int = 256
    threads: int = 2


class StepError(Exception):
    """A step that did not succeed.

    code: an error code of the API, such as INVALID_MESH or TIMEOUT.
    detail: a text for the user.
    log: the end of what the step wrote to stderr, for the operator's log only.
    """

    def __init__(self, code: str, detail: str, log: str = "") -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.log = log


async def run_step(
    command: Sequence[str],
    *,
    scratch: Path,
    limits: Limits,
    on_progress: Callable[[float, str], None],
    crash_code: str = "INVALID_MESH",
) -> None:
    """Runs command in the folder scratch, confined, until it ends.

    Only files below scratch can be written, and of the files of the job only those below scratch
    can be read. on_progress gets a fraction in 0..1 and a message. Cancelling the awaiting task
    kills the step at once.

    Raises StepError with the code and the text of the step's own error line; with TIMEOUT when it
    used up its time; with crash_code (INVALID_MESH for programs that parse a user's file,
    PROCESSING_FAILED for engines) when it crashed or ran out of memory. Raises ChildProcessError
    where somebody else killed it, such as a node short of memory: that is not the model's fault.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-S", "-B", _LAUNCHER, _confinement(limits, scratch)),
        *command,
        cwd=scratch,
        env=_environment(limits, scratch),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None  # noqa: S101 - PIPE above
    assert process.stderr is not None  # noqa: S101
    log = asyncio.create_task(_last_bytes(process.stderr))
    try:
        async with asyncio.timeout(limits.wall_seconds):
            refusal = await _follow(process.stdout, on_progress)
            status = await process.wait()
    except TimeoutError:
        raise StepError("TIMEOUT", _too_slow(limits.wall_seconds)) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())
        log_tail = await log
    if status != 0:
        raise _failure(status, refusal, log_tail, limits, crash_code)


def _failure(
    status: int, refusal: tuple[str, str] | None, log: bytes, limits: Limits, crash_code: str
) -> StepError:
    text = f"exit status {status}\n" + log.decode("utf-8", "replace")
    if status == -signal.SIGKILL:
        raise ChildProcessError("a step was killed from outside, perhaps for the node's memory")
    if status == REFUSED_STATUS and refusal is not None:
        return StepError(refusal[0], refusal[1], text)
    if status == -signal.SIGXCPU:
        return StepError("TIMEOUT", _too_slow(limits.cpu_seconds), text)
    if _MEMORY_WORDS.search(log):
        allowed = f"{limits.memory_bytes / GIB:.1f} GB"
        detail = (
            f"The model needs more memory than a job may use ({allowed}). "
            "Reduce its polygons or textures and try again."
        )
        return StepError(crash_code, detail, text)
    if status == -signal.SIGXFSZ:
        return StepError(crash_code, "The result is larger than a job may write.", text)
    if crash_code == "INVALID_MESH":
        detail = "The file could not be read: it is damaged or uses something we do not support."
        return StepError(crash_code, detail, text)
    return StepError(crash_code, "The model could not be processed.", text)


def _too_slow(seconds: float) -> str:
    return (
        f"The model took longer than the {seconds:.0f} seconds a step may take. "
        "Reduce its polygons and try again."
    )


async def _follow(
    stdout: asyncio.StreamReader, on_progress: Callable[[float, str], None]
) -> tuple[str, str] | None:
    """Passes progress on until stdout ends; returns the code and text of the last error line."""
    refusal = None
    async for line in _lines(stdout):
        try:
            report = json.loads(line)
        except (ValueError, RecursionError):
            continue  # libraries print what they like
        if not isinstance(report, dict):
            continue
        progress, code = report.get("progress"), report.get("error_code")
        if isinstance(progress, int | float) and 0 <= progress <= 1:
            on_progress(float(progress), _printable(report.get("message"), 200))
        if isinstance(code, str) and re.fullmatch(r"[A-Z][A-Z_]{0,39}", code):
            refusal = code, _printable(report.get("error"), 1000)
    return refusal


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines; a line beyond _LINE_BYTES is dropped, so memory stays flat."""
    rest, overlong = b"", False
    while chunk := await stream.read(_LINE_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if not overlong:
                yield line
            overlong = False
        if len(rest) > _LINE_BYTES:
            rest, overlong = b"", True


async def _last_bytes(stream: asyncio.StreamReader) -> bytes:
    tail = b""
    while chunk := await stream.read(_LOG_BYTES):
        tail = (tail + chunk)[-_LOG_BYTES:]
    return tail


def _printable(text: object, length: int) -> str:
    return "".join(c for c in str(text or "") if c.isprintable())[:length]


def _environment(limits: Limits, scratch: Path) -> dict[str, str]:
    threads = str(limits.threads)
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONPATH": os.pathsep.join(map(str, _code_folders())),
        # Without it the scratch folder, where a user's files lie, would be first on sys.path.
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "MALLOC_ARENA_MAX": "2",
    }


def _code_folders() -> list[Path]:
    return [_PACKAGE_ROOT, _PACKAGE_ROOT / "protos" / "gen"]


def _confinement(limits: Limits, scratch: Path) -> str:
    readable = [sys.prefix, sys.base_prefix, str(_PACKAGE_ROOT / "services")]
    return json.dumps(
        {
            "parent": os.getpid(),
            "memory_bytes": limits.memory_bytes,
            "cpu_seconds": limits.cpu_seconds,
            "file_bytes": limits.file_bytes,
            "open_files": limits.open_files,
            "listable": list(map(str, _code_folders())),  # how imports find a package
            "readable": [*readable, *_SYSTEM_FILES],
            "writable": [str(scratch.resolve()), "/dev/null"],
        }
    )


# What an interpreter and its libraries open to start. Not /etc, /run, /var or /home: secrets.
_SYSTEM_FILES = (
    *("/usr", "/lib", "/lib64", "/bin", "/sys/devices/system", "/proc"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/fonts", "/etc/ssl/openssl.cnf"),
    *("/dev/zero", "/dev/random", "/dev/urandom"),
)


# The launcher, from here on: standard library only, one thread, before any untrusted byte.

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38


def _become(confinement: str, command: Sequence[str]) -> None:
    settings = json.loads(confinement)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != settings["parent"]:
        sys.exit("the parent is gone")
    # When a node runs out of memory, the kernel should take the step and not the worker.
    with contextlib.suppress(OSError):  # a sandbox without it has its own ways
        Path("/proc/self/oom_score_adj").write_text("1000")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _drop_capabilities()
    _restrict_files(settings["listable"], settings["readable"], settings["writable"])
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, settings["memory_bytes"]),
        (resource.RLIMIT_NOFILE, settings["open_files"]),
        (resource.RLIMIT_FSIZE, settings["file_bytes"]),
    ):
        resource.setrlimit(kind, (value, value))
    cpu = settings["cpu_seconds"]
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    _restrict_system_calls()
    os.execv(command[0], list(command))  # noqa: S606 - no shell is the point


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _drop_capabilities() -> None:
    """capset(2): a worker that runs as root must not lend root's powers to the step."""
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    if _LIBC.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


# System calls by number: <asm/unistd_64.h> and <asm-generic/unistd.h>.
_ARCHITECTURES = {
    "x86_64": {
        "audit": 0xC000003E,
        "clone": 56,
        "denied": {
            **{"socket": 41, "fork": 57, "vfork": 58, "kill": 62, "ptrace": 101},
            **{"setpgid": 109, "setsid": 112, "perf_event_open": 298},
            **{"process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321, "userfaultfd": 323},
        },
    },
    "aarch64": {
        "audit": 0xC00000B7,
        "clone": 220,
        "denied": {
            **{"socket": 198, "kill": 129, "ptrace": 117, "setpgid": 154, "setsid": 157},
            **{"perf_event_open": 241, "process_vm_readv": 270, "process_vm_writev": 271},
            **{"bpf": 280, "userfaultfd": 282},
        },
    },
}
_IO_URING_SETUP = 425  # could open sockets behind the filter's back
_CLONE3 = 435  # its flags lie in memory, where a filter cannot look
_CLONE_THREAD = 0x00010000
_X32_BIT = 0x40000000


def _restrict_system_calls() -> None:
    """seccomp(2) in filter mode; libc falls back to clone where clone3 does not exist."""
    architecture = _ARCHITECTURES[platform.machine()]
    load, jump_equal, jump_at_least, jump_any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow = 0x80000000, 0x7FFF0000
    deny, missing = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    number, audit, first_argument = 0, 4, 16  # offsets in struct seccomp_data

    program = [
        (load, 0, 0, audit),
        (jump_equal, 1, 0, architecture["audit"]),
        (give, 0, 0, kill),
        (load, 0, 0, number),
        (jump_at_least, 0, 1, _X32_BIT),
        (give, 0, 0, deny),
    ]
    for call in (*architecture["denied"].values(), _IO_URING_SETUP):  # type: ignore[attr-defined]
        program += [(jump_equal, 0, 1, call), (give, 0, 0, deny)]
    program += [
        (jump_equal, 0, 1, _CLONE3),
        (give, 0, 0, missing),
        (jump_equal, 0, 3, architecture["clone"]),
        (load, 0, 0, first_argument),
        (jump_any_bit, 1, 0, _CLONE_THREAD),
        (give, 0, 0, deny),
        (give, 0, 0, allow),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    instructions = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(instructions))
    if _LIBC.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(2), header, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_FILE_RIGHTS = _EXECUTE | 1 << 1 | _READ_FILE | 1 << 14 | 1 << 15  # with write, truncate, ioctl
_RIGHTS_BY_ABI = ((1, 13), (2, 14), (3, 15), (5, 16))  # (since ABI, how many rights it knows)


def _restrict_files(
    listable: Sequence[str], readable: Sequence[str], writable: Sequence[str]
) -> None:
    """landlock(7). It also hides other processes' environments and memory (/proc/PID/environ)."""
    abi = _LIBC.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return  # an older kernel: the other limits hold without it
    known = (1 << max(count for since, count in _RIGHTS_BY_ABI if abi >= since)) - 1
    attributes = struct.pack("Q", known)
    ruleset = _landlock(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    reading = _EXECUTE | _READ_FILE | _READ_DIR
    for paths, rights in ((listable, _READ_DIR), (readable, reading), (writable, known)):
        for path in paths:
            _allow(ruleset, path, rights)
    _landlock(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        allowed = rights if os.path.isdir(path) else rights & _FILE_RIGHTS
        rule = struct.pack("=Qi", allowed, file)
        _landlock(_LANDLOCK_ADD_RULE, ruleset, 1, rule, 0)
    finally:
        os.close(file)


def _landlock(call: int, *arguments: object) -> int:
    result = int(_LIBC.syscall(call, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock {call}")
    return result


if __name__ == "__main__":
    _become(sys.argv[1], sys.argv[2:])
