"""Tables as data, and the three ways of showing them: terminal text, Markdown and JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from mbdeploy.results import encode_result

_WIDTH = 80
_GAP = 2  # between two columns
#: A column of text may be made so narrow, and folds.
_NARROWEST = 12
#: Control characters, escapes, line separators, direction overrides and lone surrogates: a hostile name's tools.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_MARKDOWN = re.compile(r"([\\|`*_<>\[\]#])")
_STYLES = {"FAIL": "bold red", "pass": "green", "inconclusive": "yellow"}


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table of text: a title, columns (the first is left-aligned, the others right), rows, and notes below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    left: tuple[int, ...] = (0,)


def escape_controls(text: object) -> str:
    """The text in one line that cannot steer a terminal: what is not printable is shown as ``\\x1b``."""
    return _CONTROLS.sub(_escape_one, str(text))


def render_tables(tables: Iterable[Table], *, format: str = "table", color: bool = False) -> str:
    """The tables as terminal text of at most 80 columns (``table``) or as Markdown (``md``)."""
    if format == "md":
        return "\n\n".join(_render_markdown(table) for table in tables)
    return "\n\n\n".join(_render_text(table, color) for table in tables)


def render_json(value: Any) -> str:
    """A struct or plain data as indented JSON; structs bring their own ``schema_version``."""
    return msgspec.json.format(encode_result(value), indent=2).decode()


def format_bytes(size: int | None) -> str:
    """A file's or a process's size in MB (10^6 bytes), the unit of the field's papers."""
    return "n/a" if size is None else f"{size / 1e6:.2f} MB"


def _escape_one(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _render_text(table: Table, color: bool) -> str:
    import io

    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    stream = io.StringIO()
    system: Literal["standard"] | None = "standard" if color else None
    console = Console(file=stream, width=_WIDTH, force_terminal=color, no_color=not color, color_system=system)
    if table.title:
        console.print(Text(escape_controls(table.title), style="bold"), end="\n\n" if table.rows else "\n")
    for number, columns in enumerate(_fit_columns(table) if table.rows else ()):
        if number:
            console.print()
        grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
        grid.show_header = any(table.columns)
        for index in columns:
            justify: Literal["left", "right"] = "left" if index in table.left else "right"
            whole = index not in table.left and all(len(row[index]) <= _WIDTH // 2 for row in table.rows)
            grid.add_column(table.columns[index], justify=justify, overflow="fold", no_wrap=whole)
        for row in table.rows:
            cells = (escape_controls(row[index]) for index in columns)
            grid.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
        console.print(grid)
    if table.rows and table.notes:
        console.print()
    for note in table.notes:
        console.print(Text(escape_controls(note), style="dim"))
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def _fit_columns(table: Table) -> list[list[int]]:
    """The columns, in as many parts as it takes that no number is cut; the columns of text lead every part."""
    from rich.cells import cell_len

    widths = [
        max(cell_len(escape_controls(cell)) for cell in column)
        for column in zip(table.columns, *table.rows, strict=True)
    ]
    texts = [index for index in range(len(widths)) if index in table.left]
    room = _WIDTH - sum(min(widths[index], _NARROWEST) + _GAP for index in texts)
    parts: list[list[int]] = [[]]
    for index in (index for index in range(len(widths)) if index not in table.left):
        if parts[-1] and sum(widths[one] + _GAP for one in (*parts[-1], index)) - _GAP > room:
            parts.append([])
        parts[-1].append(index)
    return [sorted([*texts, *part]) for part in parts]


def _render_markdown(table: Table) -> str:
    lines = [f"### {_escape_markdown(table.title)}", ""] if table.title else []
    if table.rows:
        marks = ["---" if index in table.left else "--:" for index in range(len(table.columns))]
        for cells in (table.columns, marks, *table.rows):
            shown: Sequence[str] = cells if cells is marks else [_escape_markdown(cell) for cell in cells]
            lines.append(f"| {' | '.join(shown)} |")
    for note in table.notes:
        lines += ["", _escape_markdown(note)]
    return "\n".join(lines).strip()


def _escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", escape_controls(text))
