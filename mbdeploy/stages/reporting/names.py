"""Names from models on a page: in one line, without what steers a reader, and never longer than anybody reads."""

from __future__ import annotations

from mbdeploy.stages.tables import escape_controls

_MOST_LETTERS = 160


def shorten(name: str, most: int = _MOST_LETTERS) -> str:
    """The name, or its beginning and end and how long it is."""
    if len(name) <= most:
        return escape_controls(name)
    head, tail = name[: most * 2 // 3], name[-most // 4 :]
    return f"{escape_controls(head)} … {escape_controls(tail)} ({len(name):,} characters)"
