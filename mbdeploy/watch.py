"""Start a process, hand over its lines as they come, and never leave it behind: limits, time-out, group kill."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from mbdeploy.bounds import current_bounds

#: What a child inherits of the environment: enough to find programs, packages and devices, no secrets.
KEPT_ENVIRONMENT = frozenset(
    "PATH HOME LANG LC_ALL LC_CTYPE TMPDIR TEMP TMP SYSTEMROOT PYTHONPATH PYTHONHASHSEED PYTHONWARNINGS "
    "PYTHONOPTIMIZE VIRTUAL_ENV LD_LIBRARY_PATH DYLD_LIBRARY_PATH MBDEPLOY_PATH XDG_CACHE_HOME "
    "OPENBLAS_CORETYPE OPENBLAS_L2_SIZE OPENBLAS_NUM_THREADS OMP_NUM_THREADS MKL_NUM_THREADS "
    "CUDA_VISIBLE_DEVICES CUDA_HOME CUDA_PATH NVIDIA_VISIBLE_DEVICES COVERAGE_PROCESS_START".split()
)
#: What only those inherit that start ssh or Docker's client: the ways to keys and to servers.
REACHING_ENVIRONMENT = frozenset("SSH_AUTH_SOCK DOCKER_HOST DOCKER_CONFIG DOCKER_CONTEXT".split())
#: In the environment of an agent: the number of the process that it ends with.
PARENT = "MBDEPLOY_PARENT"
_STDERR_TAIL_BYTES = 4000
#: Starts a program in a network of its own, which has no way out; the user and the process stay who they are. Root
#: needs no namespace of users for that, and in one could not write to folders of others any more.
_UNSHARE = ("unshare", "--net", *(() if hasattr(os, "geteuid") and os.geteuid() == 0 else ("--map-current-user",)))
_OPEN_FILES = 4096
_POLL_S = 0.25


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
    child has ended, so that no grandchild outlives it. 2. Address space, file size, CPU time and open files are
    limited where the system can do it from outside (Linux); elsewhere only time is.
    """
    started = time.monotonic()
    deadline = started + min(limits.wall_s, current_bounds().max_time or limits.wall_s)
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
            timed_out = _pump_lines(answer_read, process, deadline, on_line)
            if not timed_out:
                try:
                    process.wait(timeout=max(0.1, deadline - time.monotonic()))
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


def child_environment(*, reaching: bool = False) -> dict[str, str]:
    """This process's environment, cut down to ``KEPT_ENVIRONMENT``; numpy keeps to one thread unless it says otherwise.

    One that is ``reaching`` gets ``REACHING_ENVIRONMENT``, too: it starts ssh or Docker's client, and runs no model.
    The threads of its linear algebra would spin beside ONNX Runtime's, and leave their number in the last bits. ONNX
    Runtime, which since 1.31 reports sessions to its makers unless it is told not to, is told.
    """
    names = KEPT_ENVIRONMENT | REACHING_ENVIRONMENT if reaching else KEPT_ENVIRONMENT
    kept = {name: value for name, value in os.environ.items() if name in names}
    return {"OPENBLAS_NUM_THREADS": "1", **kept, "ORT_DISABLE_TELEMETRY": "1"}


def tie_python(number: int = signal.SIGKILL) -> str:
    """Source for a Python child of this process to begin with: the child ends when this process does, however it ends.

    Rules: 1. Linux sends the signal ``number`` when the parent dies (PR_SET_PDEATHSIG, which is 1), also to a program
    that takes the child's place by ``exec``. 2. A parent that died before that line is another one after it.
    3. Elsewhere only a parent that died before is noticed. 4. The current folder, which may be a stranger's, is taken
    off the path before anything is imported.
    """
    here = "sys.path[:] = filter(None, sys.path)"
    ask = f"sys.platform == 'linux' and __import__('ctypes').CDLL(None).prctl(1, {int(number)}, 0, 0, 0)"
    return f"import os, sys; {here}; {ask}; os.getppid() == {os.getpid()} or os._exit(1); "


def tie_command(command: Sequence[str], number: int = signal.SIGKILL) -> list[str]:
    """``command``, which gets the signal ``number`` when this process dies, from its first moment (``tie_python``)."""
    return [sys.executable, "-I", "-S", "-c", tie_python(number) + "os.execvp(sys.argv[1], sys.argv[1:])", *command]


def cut_network(command: Sequence[str]) -> list[str]:
    """``command`` without a network where the system permits that, else as it is (``describe_isolation`` says so)."""
    return [*(() if find_network_bar() else _UNSHARE), *command]


@functools.cache
def find_network_bar() -> str:
    """Why a child cannot be started without a network, or nothing where it can: tried once in a process."""
    if sys.platform != "linux":
        return f"{sys.platform} has no network namespaces"
    try:
        done = subprocess.run(
            [*_UNSHARE, "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=False
        )
    except FileNotFoundError:
        return "no program `unshare` (util-linux)"
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"status {done.returncode}").splitlines()[0]


def describe_isolation() -> dict[str, str]:
    """What native steps are held to on this machine, and what they are not."""
    linux = sys.platform == "linux"
    bar = find_network_bar()
    return {
        "time": "limited; the whole process group is killed",
        "memory, CPU time, files": "limited" if linux else f"NOT limited: {sys.platform} cannot do it from outside",
        "death of mbdeploy": "kills the step" if linux else f"NOT noticed by the step on {sys.platform}",
        "environment": "without secrets: only names on a list",
        "network": f"NOT cut off: {bar}" if bar else "cut off",
    }


def _limit_process(pid: int, limits: Limits) -> None:
    if sys.platform != "linux":
        return
    import resource

    for kind, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        # Inherited by a grandchild that leaves the group, which no kill of ours reaches.
        (resource.RLIMIT_CPU, math.ceil(limits.wall_s) * (os.cpu_count() or 1)),
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
