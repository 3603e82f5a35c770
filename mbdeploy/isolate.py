"""Run a native step in a child process: limits, time-out, process-group kill, and a verdict.

``onnx.checker``, onnxsim and the ONNX Runtime constructor abort on some small files, so none of them
runs in the process that answers the user. The child is this interpreter with the same ``sys.path``;
it gets a JSON request and answers with JSON lines on a pipe of its own, so that whatever the native
code prints cannot be taken for an answer.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import errors
from mbdeploy.bounds import Bounds, current_bounds, set_bounds
from mbdeploy.watch import Ended, Limits, cut_network, tie_python, watch_process

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total); ``total`` is 0 where it is not known."""


class Verdict(str, enum.Enum):
    """How a native step ended."""

    OK = "OK"
    REJECTED = "REJECTED"
    CRASHED = "CRASHED"
    TIMEOUT = "TIMEOUT"
    OOM = "OOM"
    DEGENERATE = "DEGENERATE"
    TRANSPORT = "TRANSPORT"


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

    boot = tie_python() + (
        "import json; task = json.loads(sys.stdin.buffer.read()); sys.path[:] = task['sys_path']; "
        "from mbdeploy.isolate import answer_request; answer_request(task)"
    )
    task = {
        "sys_path": sys.path,
        "function": function,
        "request": dict(request),
        "bounds": msgspec.structs.asdict(current_bounds()),
    }
    ended = watch_process(
        cut_network([sys.executable, "-c", boot]),
        stdin=json.dumps(task).encode(),
        limits=limits,
        on_line=take_line,
        answer_fd_variable="answer_fd",
    )
    answer = answers[-1] if answers else {}
    if "error" in answer:
        raise errors.unpack_error(answer)
    if "value" in answer and ended.returncode == 0:
        usage = {key: answer[key] for key in ("cpu_s", "peak_bytes")}
        return Outcome(verdict=Verdict.OK, value=answer["value"], wall_s=ended.wall_s, **usage)
    detail = answer.get("refused", "") or _last_line(ended.stderr)
    return Outcome(verdict=judge_ended(ended, detail), detail=describe_ended(ended, detail), wall_s=ended.wall_s)


def demand_value(outcome: Outcome, *, where: object, expected: str, todo: str) -> Any:
    """The answer of a step that ended well.

    Raises:
        StepError: it did not; the verdict and the reason are in the message.
    """
    if outcome.verdict is not Verdict.OK:
        found = f"{outcome.verdict.value}: {outcome.detail}"
        raise errors.StepError(where=where, expected=expected, found=found, todo=todo)
    return outcome.value


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
    set_bounds(Bounds(**task["bounds"]))
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
        send(errors.pack_error(error))
    except MemoryError:
        send({"refused": "MemoryError"})
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in errors.DISK_FULL:
            send(errors.pack_error(errors.refuse_output(error.filename or "", error)))
            return
        import traceback

        traceback.print_exc()
        first_line = (str(error).strip() or "no message").splitlines()[0]
        send({"refused": f"{type(error).__name__}: {first_line}"})
        sys.exit(1)
    else:
        send({"value": value, **_usage()})


def _usage() -> dict[str, Any]:
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with contextlib.suppress(OSError), Path("/proc/self/status").open(encoding="utf-8") as status:
        # On Linux ru_maxrss starts at the size of the parent that forked us; VmHWM does not.
        peak_bytes = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_bytes": peak_bytes}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
