"""Results as JSON and back, with the numbers that JSON lacks."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import msgspec

from mbdeploy.decoding import decode_json

T = TypeVar("T")

SCHEMA_VERSION = 1


def encode_result(value: Any) -> bytes:
    """A result as JSON; the numbers that JSON lacks are written as "inf", "-inf" and "nan", not lost as null."""
    return msgspec.json.encode(_name_non_finite(msgspec.to_builtins(value)))


def decode_result(data: bytes, kind: type[T]) -> T:
    """What ``encode_result`` wrote, as the struct it was.

    Raises:
        msgspec.MsgspecError: not such a result.
    """
    return decode_json(data, kind, strict=False)


def _name_non_finite(plain: Any) -> Any:
    if isinstance(plain, float):
        return plain if math.isfinite(plain) else str(plain)
    if isinstance(plain, dict):
        return {key: _name_non_finite(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_name_non_finite(value) for value in plain]
    return plain
