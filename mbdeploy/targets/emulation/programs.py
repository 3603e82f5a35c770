"""Programs of the user's system (apt-get, pip, qemu) as steps that succeed or say why not."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from mbdeploy.artifact import digest_file
from mbdeploy.errors import UnavailableError
from mbdeploy.targets.emulation.prefix import Fetched

_STEP = "targets setup qemu"
_CAUSE_LINES = 3


def call_program(
    argv: Sequence[str], *, expected: str, todo: str, cwd: Path, wall_s: float = 1200.0
) -> tuple[str, str]:
    """What a program printed on standard output and on standard error.

    It inherits the environment: mirrors, indexes and proxies are the user's own.

    Raises:
        UnavailableError: it is not there, fails or does not end; the cause is its own last words.
    """
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=wall_s,
            check=False,
            cwd=cwd,
        )
    except OSError as error:
        raise refuse_step(expected, f"no {argv[0]} that starts ({error.strerror})", todo) from error
    except subprocess.TimeoutExpired as error:
        raise refuse_step(expected, f"{argv[0]}, which did not end in {wall_s:.0f} s", todo) from error
    if done.returncode != 0:
        raise refuse_step(expected, _describe(argv[0], done), todo)
    return done.stdout, done.stderr


def refuse_step(expected: str, found: str, todo: str) -> UnavailableError:
    """The error for a step of the set-up that cannot be done here."""
    return UnavailableError(where=_STEP, expected=expected, found=found, todo=todo)


def describe_files(files: Sequence[Path]) -> tuple[Fetched, ...]:
    """Name, sha256 and size of files, in order of their names."""
    return tuple(
        Fetched(file=path.name, sha256=digest_file(path), size_bytes=path.stat().st_size)
        for path in sorted(files, key=lambda path: path.name)
    )


def _describe(program: str, done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "ERROR:", "qemu:"))] or lines
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    return f"{Path(program).name} with {ended}: {' '.join(errors[:_CAUSE_LINES]) or 'no message'}"
