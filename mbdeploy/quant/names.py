"""Names for what is added to a graph."""

from __future__ import annotations

from collections.abc import Container


def find_free(name: str, taken: Container[str]) -> str:
    """The name, or the same with as many underscores as it takes to be a new one."""
    while name in taken:
        name += "_"
    return name
