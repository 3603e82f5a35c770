"""What must hold of every command on every item: it ends in time, says one line, and nothing leaks or is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from click.testing import CliRunner

from hostile_corpus.building import CANARY
from mbdeploy.cli import program

#: A native step is given this, and a command may take several.
STEP_SECONDS = 5
_COMMAND_SECONDS = 60
_LONGEST_LINE = 6000


@dataclass(frozen=True)
class Ending:
    """How a command ended: what is wrong with that, or nothing."""

    code: int
    stdout: str
    stderr: str
    wall_s: float
    wrong: tuple[str, ...]


class HangError(BaseException):
    """A command that did not end in time."""


def run_command(args: Sequence[str], folder: Path, *, harmless: bool = False) -> Ending:
    """Run mbdeploy on what lies in ``folder``; payloads would leave a file ``owned`` in it or beside it."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    before = set(list_files(folder))
    started = time.monotonic()
    environment = {"TMPDIR": str(scratch), "NO_COLOR": "1"}
    with ending_in_time(), using_scratch(scratch):
        result = CliRunner().invoke(program, list(args), env=environment)
    wall_s = time.monotonic() - started
    made = [path for path in list_files(folder) if path not in before]
    wrong = [
        *judge_words(result.exit_code, result.stdout, result.stderr, harmless=harmless),
        *(f"a payload ran: {path}" for path in (folder / "owned", folder.parent / "owned") if path.exists()),
        *(f"left behind: {path}" for path in made if ".mbdeploy-tmp" in path.name or scratch in path.parents),
        *(f"the canary is in {path}" for path in made if path.is_file() and CANARY in path.read_bytes()),
    ]
    return Ending(result.exit_code, result.stdout, result.stderr, wall_s, tuple(wrong))


def judge_words(code: int, stdout: str, stderr: str, *, harmless: bool) -> Iterator[str]:
    """What is wrong with an exit code and with what was said."""
    if code not in ((0, 1, 2, 3, 4) if harmless else (1, 2, 3, 4)):
        yield f"exit code {code}"
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    if code in (2, 3) and len(errors) != 1:
        yield f"{len(errors)} lines of error"
    if any(len(line) > _LONGEST_LINE for line in errors):
        yield f"a line of {max(map(len, errors))} characters"
    if "Traceback" in stderr or "Traceback" in stdout:
        yield "a traceback"
    if CANARY.decode() in stdout + stderr:
        yield "the canary is in what it says"
    if any(ord(letter) < 32 and letter not in "\n\t" for letter in stdout + stderr):
        yield "control characters"


def list_files(folder: Path) -> Iterator[Path]:
    """Files below a folder, without following links to folders; what lies in ``scratch`` at the end is a leftover."""
    for root, folders, files in os.walk(folder):
        for name in files:
            if not name.endswith(".lock"):
                yield Path(root) / name
        for name in folders:
            if Path(root).name == "scratch" and not name.startswith("torchinductor"):  # torch's cache
                yield Path(root) / name


@contextmanager
def ending_in_time() -> Iterator[None]:
    """Raise HangError in the main thread once the command has taken too long."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise HangError(f"still running after {_COMMAND_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _COMMAND_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def using_scratch(scratch: Path) -> Iterator[None]:
    """Temporary files of this process lie in ``scratch`` meanwhile."""
    import tempfile

    before, tempfile.tempdir = tempfile.tempdir, str(scratch)
    try:
        yield
    finally:
        tempfile.tempdir = before
