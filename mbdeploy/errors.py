"""The exception tree: every way in which mbdeploy refuses, with the exit code each one ends in.

    MbdeployError              2  (never raised itself)
    ├── UsageError             2  the command or the call contradicts itself
    ├── CardError              2  a model card that cannot be used
    ├── ModelError             2  a model file, or a network, that cannot be used
    ├── DataError              2  calibration, golden or labelled data that cannot be used
    ├── OutputError            2  the result cannot be written where it was asked for
    ├── UnavailableError       3  a provider, target or package that is not here
    └── StepError              2  a native step that crashed, hung or ran out of memory on this input

Anything else that reaches the command line is a bug of ours and ends in 5. A gate that fails is
not an exception: it is a result with ``passed=False`` (exit 1), or an inconclusive one (exit 4).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_LONGEST = 2000
EXIT_OK = 0
EXIT_GATE_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_UNAVAILABLE = 3
EXIT_INCONCLUSIVE = 4
EXIT_BUG = 5


class MbdeployError(Exception):
    """One clear line: where, what was expected, what was found, and what to do about it.

    Rules: 1. ``expected`` and ``found`` are noun phrases without a full stop. 2. ``todo`` starts
    with a verb. 3. A path or a name from a model goes into ``where`` or ``found`` as it is; the
    command line escapes it when it prints. 4. What a library says of a file can be as long as the names in it: it is
    cut.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, *, where: object = "", expected: str, found: str, todo: str) -> None:
        self.where = str(where)
        self.expected = expected
        self.found = found if len(found) <= _LONGEST else found[:_LONGEST] + "…"  # 4.
        self.todo = todo
        prefix = f"{self.where}: " if self.where else ""
        super().__init__(f"{prefix}expected {expected}, found {self.found}; {todo}")


def name_cause(error: BaseException) -> str:
    """The first line of what a library says of its error; its type where it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


class UsageError(MbdeployError):
    """The command or the call contradicts itself."""


class CardError(MbdeployError):
    """A model card that cannot be used."""


class ModelError(MbdeployError):
    """A model file, or a network, that cannot be used."""


class DataError(MbdeployError):
    """Calibration, golden or labelled data that cannot be used."""


class OutputError(MbdeployError):
    """The result cannot be written where it was asked for."""


#: The operating system's numbers for "there is no room".
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refuse_output(where: object, error: OSError) -> OutputError:
    """The error for a result that the operating system does not let us write at ``where``."""
    full = error.errno in DISK_FULL
    return OutputError(
        where=where,
        expected="room to write" if full else "a place that can be written",
        found=(error.strerror or str(error)).lower(),
        todo="free some space there" if full else "choose another place with --output",
    )


class UnavailableError(MbdeployError):
    """A provider, target or package that is not here."""

    exit_code = EXIT_UNAVAILABLE


class StepError(MbdeployError):
    """A native step that crashed, hung or ran out of memory on this input."""


def pack_error(error: MbdeployError) -> dict[str, Any]:
    """An error in words that travel between processes: {"error": its class, "fields": what it says}."""
    fields = {key: getattr(error, key) for key in ("where", "expected", "found", "todo")}
    return {"error": type(error).__name__, "fields": fields}


def unpack_error(packed: Mapping[str, Any]) -> MbdeployError:
    """The error that ``pack_error`` put into words, to be raised here."""
    kind: type[MbdeployError] = globals()[packed["error"]]
    return kind(**packed["fields"])
