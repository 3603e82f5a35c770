"""How much a file from outside may ask for: limits that are options of every command that opens one."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import msgspec

from mbdeploy.errors import UsageError


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on a foreign file; each is the option of its name.

    ``max_file_size`` (bytes) holds for a file and for all that it points to, unpacked; ``max_memory`` (bytes) for any
    one tensor, for all weights as the file declares them, and for what is read at once of an array file; ``max_nodes``
    for operators after functions are expanded; ``max_window`` for kernels, strides, dilations, paddings and factors;
    ``max_trips`` for the trips of loops, those of nested loops multiplied; ``max_time`` (seconds) for one native step,
    where its own limit is longer.
    """

    max_file_size: int = 8 << 30
    max_memory: int = 2 << 30
    max_nodes: int = 100_000
    max_window: int = 4096
    max_trips: int = 10_000
    max_time: float | None = None


_CURRENT: contextvars.ContextVar[Bounds] = contextvars.ContextVar("bounds", default=Bounds())  # noqa: B039 (frozen)


def current_bounds() -> Bounds:
    """The limits that hold here and now."""
    return _CURRENT.get()


def set_bounds(bounds: Bounds) -> None:
    """From here on these limits hold, in this context and in the children that it starts."""
    _CURRENT.set(bounds)


@contextlib.contextmanager
def bounding(**limits: float | None) -> Iterator[Bounds]:
    """Other limits for what is opened within: ``with bounding(max_nodes=500_000): simplify(...)``.

    Raises:
        UsageError: no such limit, or one that is not above 0.
    """
    known = set(Bounds.__struct_fields__)
    for name, value in limits.items():
        if name not in known or value is None or not value > 0:
            raise UsageError(
                where=name,
                expected=f"a limit above 0 ({', '.join(Bounds.__struct_fields__)})",
                found=str(value) if name in known else "no such limit",
                todo="choose one of these",
            )
    token = _CURRENT.set(msgspec.structs.replace(current_bounds(), **limits))
    try:
        yield current_bounds()
    finally:
        _CURRENT.reset(token)


def name_option(limit: str) -> str:
    """The option of a limit, as errors name it."""
    return f"--{limit.replace('_', '-')}"
