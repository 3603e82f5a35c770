"""A long table as terminal text in a tenth of the time that rich takes: hundreds of layers must not be waited for."""

from __future__ import annotations

from collections.abc import Sequence

from mbdeploy.stages.tables import Table, escape_controls

_WIDTH = 80
_GAP = "  "
_NARROWEST = 12
_LONG = 40


def is_long(table: Table) -> bool:
    """Whether the table is one of many rows of numbers, which ``lay_out`` is for."""
    return len(table.rows) > _LONG and len(table.columns) > 3


def lay_out(table: Table) -> str:
    """The table as text of at most 80 columns, in the look of ``render_tables``; the first column gives way."""
    rows = [tuple(escape_controls(cell) for cell in row) for row in table.rows]
    widths = [max(map(len, column)) for column in zip(table.columns, *rows, strict=True)]
    others = sum(widths[1:]) + len(_GAP) * len(widths[1:])
    widths[0] = max(_NARROWEST, min(widths[0], _WIDTH - others))
    lines = [table.title, "", _join(table.columns, widths, table.left), "─" * (widths[0] + others)]
    for first, *rest in rows:
        folded = [first[start : start + widths[0]] for start in range(0, len(first), widths[0])] or [""]
        lines.append(_join((folded[0], *rest), widths, table.left))
        lines += folded[1:]
    notes = ["", *table.notes] if table.notes else []
    return "\n".join(line.rstrip() for line in (*lines, *notes))


def _join(cells: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> str:
    pairs = enumerate(zip(cells, widths, strict=True))
    return _GAP.join(cell.ljust(width) if index in left else cell.rjust(width) for index, (cell, width) in pairs)
