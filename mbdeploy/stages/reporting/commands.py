"""A call as the command line that repeats it: what is at its default is left out, what a shell would read is quoted."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from mbdeploy.calls import Call

#: What a keyword is if nobody says, where that is not nothing (None, no, an empty list); of all commands alike.
USUAL: dict[str, Any] = {
    "threads": 1,
    "seed": 0,
    "num_samples": 64,
    "providers": "cpu",
    "provider": "cpu",
    "batch_size": 1,
    "min_duration": 2.0,
    "max_duration": 60.0,
    "min_pairs": 30,
    "processes": 5,
    "cool_down": 0.5,
    "tolerance": 0.05,
    "num_calibration_samples": 128,
    "recipe": "accurate",
    "one_by_one": True,
    "roofline": True,
}
#: Keywords that only Python can give. Budgets, too, where they are not those of a card.
UNTYPED = frozenset({"kind", "roofline"})
#: Options whose "no" differs from not being given.
_DENIED = frozenset({"background", "one_by_one"})
#: Options that take several values between commas; others of several values are repeated.
_JOINED = frozenset({"threads", "batch_size", "alpha", "rho", "recipe"})
_OPTIONS = {"providers": "--provider", "provider_options": "--provider-option", "reduce_to": "--reduce"}


def write_command(call: Call, output: object = None) -> str:
    """The command line that does what ``call`` did, and writes to ``output``.

    What only Python can say stands behind it as a comment.
    """
    said = {name: value for name, value in call.options.items() if not _is_usual(name, value)}
    untyped = {name: said[name] for name in said if name in UNTYPED or _is_bare(name, said[name])}
    words = ["mbdeploy", call.command, *map(_guard, call.arguments)]
    words += [word for name, value in said.items() if name not in untyped for word in _write_option(name, value)]
    words += _attach("-o", str(output)) if output is not None else []
    notes = ", ".join(f"{name}={msgspec.json.encode(value).decode()}" for name, value in untyped.items())
    return join_words(words) + (f"  # and in Python: {notes}" if notes else "")


def join_words(words: Iterable[str]) -> str:
    """Words as one line for a shell; what cannot be printed is written ``$'\\x1b'``, as bash, zsh and ksh read it."""
    return " ".join(map(_quote, words))


def _is_usual(name: str, value: Any) -> bool:
    nothing = value is None or value in ([], (), {}) or (value is False and name not in _DENIED)
    return nothing or (name in USUAL and _list(value) == _list(USUAL[name]))


def _is_bare(name: str, value: Any) -> bool:
    """Whether these are budgets that no card has."""
    return name == "budgets" and not isinstance(value, str)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _write_option(name: str, value: Any) -> Iterator[str]:
    option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
    if isinstance(value, bool):
        yield option if value else f"--no{option[1:]}"
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _attach(option, f"{key}={one}")
    elif name in _JOINED:
        yield from _attach(option, ",".join(map(_show, _list(value))))
    else:
        for one in _list(value):
            yield from _attach(option, _show(one))


def _attach(option: str, value: str) -> Sequence[str]:
    """An option and its value, in one word where the value could be taken for an option."""
    if not value.startswith("-"):
        return (option, value)
    return (f"{option}={value}",) if option.startswith("--") else (option + value,)


def _guard(argument: str) -> str:
    """A name that could be taken for an option as a path."""
    return f"./{argument}" if argument.startswith("-") else argument


def _show(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _quote(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    shown = (
        f"\\{letter}"
        if letter in "\\'"
        else letter
        if letter.isprintable()
        else "".join(f"\\x{byte:02x}" for byte in _encode(letter))
        for letter in word
    )
    return f"$'{''.join(shown)}'"


def _encode(letter: str) -> bytes:
    """The bytes of a file's name, those that are no text included."""
    return letter.encode("utf-8", "surrogateescape" if "\udc80" <= letter <= "\udcff" else "surrogatepass")
