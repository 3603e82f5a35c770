"""How a result was asked for: a command and everything it was told, kept so that it can be asked for again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

#: How the work is done and who hears of it: none of these can change a result.
_NO_MATTER = frozenset("output workers cluster store shard_size shards shard limits kit".split())


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A command with all that it was told, by the keywords of its library function.

    Defaults are among the ``options``, since another version may have others. Paths are as they were given.
    """

    command: str
    arguments: tuple[str, ...] = ()
    options: dict[str, Any] = {}


def describe_call(command: str, told: Mapping[str, Any], **more: Any) -> Call:
    """The call of a library function that was ``told`` this: its ``locals()``, as long as it has no others.

    ``more`` are options that only the command line has.
    """
    options = {
        name: value for name, value in {**told, **more}.items() if name not in _NO_MATTER and not callable(value)
    }
    models = options.pop("models", ())
    plain: dict[str, Any] = msgspec.to_builtins(options, enc_hook=str)
    listed = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
    return Call(command=command, arguments=tuple(map(_name_file, models)), options=listed)


def _name_file(path: object) -> str:
    """The path of a model, so that nothing else can be meant: a bare word would be a card's name."""
    text = str(path)
    return text if "/" in text or text.endswith(".onnx") else f"./{text}"
