"""What the set-up of an emulation asks of the user's programs, and what it fetched by them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from mbdeploy.artifact import digest_file
from mbdeploy.errors import UnavailableError
from mbdeploy.targets import programs
from mbdeploy.targets.emulation.prefix import Fetched

_STEP = "targets setup qemu"

#: As ``mbdeploy.targets.programs.call_program``, for a step of this set-up.
call_program = functools.partial(programs.call_program, where=_STEP)


def refuse_step(expected: str, found: str, todo: str) -> UnavailableError:
    """The error for a step of the set-up that cannot be done here."""
    return UnavailableError(where=_STEP, expected=expected, found=found, todo=todo)


def describe_files(files: Sequence[Path]) -> tuple[Fetched, ...]:
    """Name, sha256 and size of files, in order of their names."""
    return tuple(
        Fetched(file=path.name, sha256=digest_file(path), size_bytes=path.stat().st_size)
        for path in sorted(files, key=lambda path: path.name)
    )
