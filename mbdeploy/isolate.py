"""Run a native step in a child process: limits, time-out, process-group kill, and a verdict.

``onnx.checker``, onnxsim and the ONNX Runtime constructor abort on some small files, so none of them
runs in the process that answers the user. The child is this interpreter with the same ``sys.path``;
it gets a JSON request and answers with JSON lines on a pipe of its own, so that whatever the native
code prints cannot be taken for an answer.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import errors

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total); ``total`` is 0 where it is not known."""

#: What a child inherits of the environment: enough to find programs, packages and devices, no secrets.
KEPT_ENVIRONMENT = frozenset(
    "PATH HOME LANG LC_ALL LC_CTYPE TMPDIR TEMP TMP SYSTEMROOT PYTHONPATH PYTHONHASHSEED PYTHONWARNINGS "
    "PYTHONOPTIMIZE VIRTUAL_ENV LD_LIBRARY_PATH DYLD_LIBRARY_PATH MBDEPLOY_PATH XDG_CACHE_HOME "
    "OPENBLAS_CORETYPE OPENBLAS_L2_SIZE OPENBLAS_NUM_THREADS OMP_NUM_THREADS MKL_NUM_THREADS "
    "CUDA_VISIBLE_DEVICES CUDA_HOME CUDA_PATH NVIDIA_VISIBLE_DEVICES SSH_AUTH_SOCK COVERAGE_PROCESS_START".split()
)
_STDERR_TAIL_BYTES = 4000
_POLL_S = 0.25
_PR_SET_PDEATHSIG = 1
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Verdict(str, enum.Enum):
    """How a native step ended."""

    OK = "OK"
    REJECTED = "REJECTED"
    CRASHED = "CRASHED"
    TIMEOUT = "TIMEOUT"
    OOM = "OOM"
    DEGENERATE = "DEGENERATE"
    TRANSPORT = "TRANSPORT"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a child may use: wall clock in seconds, address space and largest written file in bytes."""

    wall_s: float = 900.0
    memory_bytes: int | None = 16 << 30
    file_bytes: int | None = 8 << 30


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A process that has ended: return code (negative: the signal), whether it was stopped for time."""

    returncode: int
    timed_out: bool
    stderr: str
    wall_s: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A native step that has ended: its verdict, its answer if it is OK, else the reason in one line."""

    verdict: Verdict
    value: Any = None
    detail: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0


def ignore_progress(what: str, done: int, total: int) -> None:
    """The Progress that shows nothing."""


def run_step(
    function: str,
    request: Mapping[str, Any],
    *,
    limits: Limits | None = None,
    on_progress: Progress = ignore_progress,
) -> Outcome:
    """Call ``"package.module:function"`` with ``request`` and a Progress in a child; wait for its answer.

    The function gets ``(request: dict, on_progress: Progress)`` and returns what JSON can hold.

    Raises:
        MbdeployError: whatever subclass the function raised, as it was.
    """
    limits = limits or Limits()
    answers: list[dict[str, Any]] = []

    def take_line(line: bytes) -> None:
        message = json.loads(line)
        if "progress" in message:
            on_progress(*message["progress"])
        else:
            answers.append(message)

    boot = (
        "import json, sys; task = json.loads(sys.stdin.buffer.read()); sys.path[:] = task['sys_path']; "
        "from mbdeploy.isolate import answer_request; answer_request(task)"
    )
    task = {"sys_path": sys.path, "function": function, "request": dict(request)}
    ended = watch_process(
        [sys.executable, "-c", boot],
        stdin=json.dumps(task).encode(),
        limits=limits,
        on_line=take_line,
        answer_fd_variable="answer_fd",
    )
    answer = answers[-1] if answers else {}
    if "error" in answer:
        raise getattr(errors, answer["error"])(**answer["fields"])
    if "value" in answer and ended.returncode == 0:
        usage = {key: answer[key] for key in ("cpu_s", "peak_bytes")}
        return Outcome(verdict=Verdict.OK, value=answer["value"], wall_s=ended.wall_s, **usage)
    detail = answer.get("refused", "") or _last_line(ended.stderr)
    return Outcome(verdict=judge_ended(ended, detail), detail=describe_ended(ended, detail), wall_s=ended.wall_s)


def watch_process(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    limits: Limits,
    on_line: Callable[[bytes], None],
    answer_fd_variable: str | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> Ended:
    """Start ``argv`` in a process group of its own, hand its lines to ``on_line``, and never leave it behind.

    Lines are read from standard output, or, with ``answer_fd_variable``, from an extra pipe whose
    number is put into the JSON object on standard input under that name.

    Rules: 1. the group is killed at the time limit, on any exception (Ctrl-C included), and when the
    child has ended, so that no grandchild outlives it. 2. Address space and file size are limited
    where the system can do it from outside (Linux); elsewhere only time is.
    """
    started = time.monotonic()
    answer_read, answer_write = os.pipe()
    if answer_fd_variable is not None:
        stdin = json.dumps({**json.loads(stdin), answer_fd_variable: answer_write}).encode()
    with tempfile.TemporaryFile() as stdin_file, tempfile.TemporaryFile() as stderr_file:
        stdin_file.write(stdin)
        stdin_file.seek(0)
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=stdin_file,
                stdout=stderr_file if answer_fd_variable else answer_write,
                stderr=stderr_file,
                pass_fds=(answer_write,) if answer_fd_variable else (),
                start_new_session=True,
                env=child_environment() if environment is None else dict(environment),
                cwd=cwd,
            )
        except BaseException:
            os.close(answer_read)
            raise
        finally:
            os.close(answer_write)
        try:
            _limit_process(process.pid, limits)
            timed_out = _pump_lines(answer_read, process, started + limits.wall_s, on_line)
            if not timed_out:
                try:
                    process.wait(timeout=max(0.1, started + limits.wall_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    timed_out = True
        finally:
            os.close(answer_read)
            _kill_group(process.pid)
            process.wait()
        size = stderr_file.seek(0, os.SEEK_END)
        stderr_file.seek(max(0, size - _STDERR_TAIL_BYTES))
        stderr = stderr_file.read().decode("utf-8", "replace")
    return Ended(returncode=process.returncode, timed_out=timed_out, stderr=stderr, wall_s=time.monotonic() - started)


def child_environment() -> dict[str, str]:
    """This process's environment, cut down to ``KEPT_ENVIRONMENT``."""
    return {name: value for name, value in os.environ.items() if name in KEPT_ENVIRONMENT}


def judge_ended(ended: Ended, detail: str) -> Verdict:
    """The verdict on a process that gave no answer."""
    out_of_memory = (
        "MemoryError",
        "bad_alloc",
        "bad allocation",
        "Failed to allocate memory",
        "Cannot allocate",
    )
    if ended.timed_out:
        return Verdict.TIMEOUT
    if any(sign in detail or sign in ended.stderr for sign in out_of_memory):
        return Verdict.OOM
    return Verdict.CRASHED if ended.returncode < 0 else Verdict.REJECTED


def describe_ended(ended: Ended, detail: str) -> str:
    """One line on how a process without an answer ended."""
    if ended.timed_out:
        return f"stopped after {ended.wall_s:.0f} s"
    if ended.returncode < 0:
        return f"killed by {signal.Signals(-ended.returncode).name}" + (f" ({detail})" if detail else "")
    return detail or f"ended with status {ended.returncode} and no answer"


def answer_request(task: dict[str, Any]) -> None:
    """The child's side: run the named function and answer on the pipe (called by ``run_step`` only)."""
    die_with_parent()
    pipe = os.fdopen(task["answer_fd"], "w", encoding="utf-8")

    def send(message: dict[str, Any]) -> None:
        pipe.write(json.dumps(message) + "\n")
        pipe.flush()

    def on_progress(what: str, done: int, total: int) -> None:
        send({"progress": [what, done, total]})

    module, _, name = task["function"].partition(":")
    try:
        value = getattr(importlib.import_module(module), name)(task["request"], on_progress)
    except errors.MbdeployError as error:
        fields = {key: getattr(error, key) for key in ("where", "expected", "found", "todo")}
        send({"error": type(error).__name__, "fields": fields})
    except MemoryError:
        send({"refused": "MemoryError"})
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            fields = {"expected": "room to write", "found": os.strerror(error.errno).lower()}
            fields.update(where=str(error.filename or ""), todo="free some space there")
            send({"error": "OutputError", "fields": fields})
            return
        import traceback

        traceback.print_exc()
        first_line = (str(error).strip() or "no message").splitlines()[0]
        send({"refused": f"{type(error).__name__}: {first_line}"})
        sys.exit(1)
    else:
        send({"value": value, **_usage()})


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, however it dies; elsewhere do nothing."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _usage() -> dict[str, Any]:
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with contextlib.suppress(OSError), Path("/proc/self/status").open(encoding="utf-8") as status:
        # On Linux ru_maxrss starts at the size of the parent that forked us; VmHWM does not.
        peak_bytes = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_bytes": peak_bytes}


def _limit_process(pid: int, limits: Limits) -> None:
    if sys.platform != "linux":
        return
    import resource

    for kind, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        if value is not None:
            try:
                hard = resource.prlimit(pid, kind)[1]
                soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.prlimit(pid, kind, (soft, hard))
            except (ProcessLookupError, PermissionError):
                return  # it has ended already, or the sandbox forbids limits: the time limit still holds


def _pump_lines(
    read_fd: int, process: subprocess.Popen[bytes], deadline: float, on_line: Callable[[bytes], None]
) -> bool:
    """Hand over lines until the writer closes its end or has ended; True if the deadline came first.

    A process that the child forked and left may hold the pipe open: the child's own end is the end.
    """
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(read_fd, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            has_ended = process.poll() is not None  # asked first, so that nothing written before is missed
            if not selector.select(0 if has_ended else min(left, _POLL_S)):
                if has_ended:
                    return False
                continue
            chunk = os.read(read_fd, 1 << 16)
            if not chunk:
                return False
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                on_line(line)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of it is left
        os.killpg(pid, signal.SIGKILL)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
