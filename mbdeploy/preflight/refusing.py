"""The one way in which preflight refuses: what is wrong with the file, and the limit's option where there is one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from mbdeploy.bounds import Bounds, name_option
from mbdeploy.errors import DataError, ModelError

_TODO = "do not use this file unless you know who made it and why it is so"
_SHOWN = 80


def refuse(where: object, expected: str, found: str, todo: str = _TODO) -> ModelError:
    """The error for a file that is wrong whatever the limits are."""
    return ModelError(where=where, expected=expected, found=found, todo=todo)


def refuse_more(where: object, bounds: Bounds, limit: str, what: str, found: str) -> ModelError:
    """The error for a file that asks for more than ``limit`` (a field of ``bounds``) allows of ``what``."""
    allowed = show_number(getattr(bounds, limit))
    return ModelError(
        where=where,
        expected=f"at most {allowed} {what}",
        found=found,
        todo=f"raise {name_option(limit)} if you know why it is so",
    )


@contextlib.contextmanager
def refusing_data(what: str, todo: str = _TODO) -> Iterator[None]:
    """What preflight refuses within is no model but ``what``, and ``todo`` is what helps where it knows nothing better.

    Raises:
        DataError: in place of the ModelError.
    """
    try:
        yield
    except ModelError as error:
        raise DataError(
            where=error.where,
            expected=what,
            found=f"{error.found}, not {error.expected}",
            todo=todo if error.todo == _TODO else error.todo,
        ) from error


def show_number(value: float) -> str:
    """A number in full below ten digits, else as a power of ten."""
    return f"{value:,}" if abs(value) < 10**9 or not isinstance(value, int) else show_bytes(value)


def show_bytes(count: int) -> str:
    """A number of bytes, or any large number, in 2^10 steps where that is exact, else to three digits."""
    for power, unit in ((40, "Ti"), (30, "Gi"), (20, "Mi")):
        if count >= 1 << power and count < 1 << 60:
            return f"{count / (1 << power):.3g} {unit}"
    return str(count) if count < 1 << 60 else f"about 2^{round(math.log2(count))}"


def show_name(name: str) -> str:
    """A name from the file, quoted, and cut where it is long."""
    return repr(name if len(name) <= _SHOWN else name[:_SHOWN] + "…")
