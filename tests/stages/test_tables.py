"""Tables as terminal text, Markdown and JSON."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mbdeploy.stages.tables import Table, escape_controls, format_bytes, render_json, render_tables

HOSTILE = "a|b`<b>[red]\x1b[31m"


def test_a_cell_cannot_carry_markup_or_escapes_into_the_terminal() -> None:
    shown = render_tables([Table(title="T", columns=("name",), rows=((HOSTILE,),))])
    assert r"a|b`<b>[red]\x1b[31m" in shown
    assert "\x1b" not in shown


def test_a_cell_cannot_break_a_markdown_table() -> None:
    shown = render_tables([Table(title="T", columns=("name", "n"), rows=((HOSTILE, "1"),))], format="md")
    assert shown.splitlines() == ["### T", "", "| name | n |", "| --- | --: |", r"| a\|b\`\<b\>\[red\]\\x1b\[31m | 1 |"]


def test_no_line_is_wider_than_80_columns() -> None:
    table = Table(title="T", columns=("a", "b"), rows=(("x" * 200, "y " * 100),), notes=("z " * 90,))
    assert max(map(len, render_tables([table]).splitlines())) <= 80


def test_a_number_is_never_cut_whatever_stands_beside_it() -> None:
    name = "stages.3.4.expand.conv" * 4
    numbers = tuple(f"-{index}0.50 … 30.5{index}" for index in range(9))
    table = Table(title="T", columns=("#", "node", *"abcdefgh"), rows=(("1", name, *numbers[1:]),), left=(1,))
    lines = render_tables([table]).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(any(number in line for line in lines) for number in numbers[1:])
    assert sum("node" in line for line in lines) == 2  # in as many parts, each of which begins with the names


def test_a_cell_wider_than_the_terminal_folds() -> None:
    shown = render_tables([Table(title="T", columns=("a", "b"), rows=(("1", "7" * 200),))])
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("7") == 200


def test_a_table_that_fits_stays_whole() -> None:
    table = Table(title="T", columns=("file", *"abcd"), rows=(("x" * 90, *["1234567.89"] * 4),))
    assert sum("file" in line for line in render_tables([table]).splitlines()) == 1


def test_without_color_there_is_no_escape_sequence() -> None:
    table = Table(title="T", columns=("gate", "verdict"), rows=(("sqnr", "FAIL"),))
    assert "\x1b" not in render_tables([table])
    assert "\x1b[1;31m" in render_tables([table], color=True)


def test_a_table_of_notes_alone_is_a_title_and_its_notes() -> None:
    assert render_tables([Table(title="Bench", columns=(), rows=(), notes=("not run yet",))]) == "Bench\nnot run yet"


def test_a_table_without_headings_shows_none() -> None:
    shown = render_tables([Table(title="T", columns=("", ""), rows=(("key", "value"),), left=(0, 1))])
    assert shown.splitlines() == ["T", "", "key  value"]


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    assert len(escape_controls(text).splitlines()) <= 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in escape_controls(text))


def test_json_is_indented_and_holds_what_was_given() -> None:
    assert render_json({"schema_version": 1}) == '{\n  "schema_version": 1\n}'


def test_sizes_are_in_decimal_megabytes() -> None:
    assert format_bytes(18_500_000) == "18.50 MB"
    assert format_bytes(None) == "n/a"
