"""JSON and TOML from files that anybody may have written: whatever is wrong with them, one kind of error says it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import msgspec

T = TypeVar("T")


def decode_json(data: bytes | str, kind: type[T], *, strict: bool = True) -> T:
    """JSON as a ``kind``; without ``strict``, "inf" is a number too.

    Raises:
        msgspec.MsgspecError: no JSON, no UTF-8, nested too deep, or not a ``kind``.
    """
    with _renaming():
        return msgspec.json.decode(data, type=kind, strict=strict)


def decode_toml(data: bytes, kind: type[T]) -> T:
    """TOML as a ``kind``.

    Raises:
        msgspec.MsgspecError: no TOML, no UTF-8, nested too deep, or not a ``kind``.
    """
    with _renaming():
        return msgspec.toml.decode(data, type=kind)


@contextlib.contextmanager
def _renaming() -> Iterator[None]:
    """msgspec lets these two through as they are."""
    try:
        yield
    except (UnicodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
