"""Programs of the user's system (apt-get, pip, qemu, docker) as steps that succeed or say why not."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from mbdeploy.errors import UnavailableError

_CAUSE_LINES = 3


def call_program(
    argv: Sequence[str],
    *,
    where: str,
    expected: str,
    todo: str,
    stdin: str = "",
    cwd: Path | None = None,
    wall_s: float = 1200.0,
) -> tuple[str, str]:
    """What a program printed on standard output and on standard error.

    It inherits the environment: mirrors, indexes, proxies and hosts are the user's own.

    Raises:
        UnavailableError: it is not there, fails or does not end; the cause is its own last words.
    """

    def refuse(found: str) -> UnavailableError:
        return UnavailableError(where=where, expected=expected, found=found, todo=todo)

    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=wall_s,
            check=False,
            cwd=cwd,
        )
    except OSError as error:
        raise refuse(f"no {argv[0]} that starts ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise refuse(f"{argv[0]}, which did not end in {wall_s:.0f} s") from error
    if done.returncode != 0:
        raise refuse(_describe(argv[0], done))
    return done.stdout, done.stderr


def _describe(program: str, done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "ERROR:", "qemu:"))] or lines
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    return f"{Path(program).name} with {ended}: {' '.join(errors[:_CAUSE_LINES]) or 'no message'}"
