"""The files of a history: only those that are of one are read, and a child reads them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from mbdeploy.errors import DataError
from mbdeploy.isolate import ignore_progress
from mbdeploy.remembering.history import history
from mbdeploy.remembering.query_job import query


def write_odd(folder: Path, kind: str) -> None:
    import pyarrow
    from pyarrow import parquet

    good = next(folder.glob("*.parquet"))
    data, odd = good.read_bytes(), folder / "odd.parquet"
    table = parquet.read_table(good)
    if kind == "cut":
        odd.write_bytes(data[: len(data) // 2])
    elif kind == "flipped":  # within the pages, whose lengths still hold
        odd.write_bytes(data[:40] + bytes(byte ^ 0xFF for byte in data[40:400]) + data[400:])
    elif kind == "text":
        odd.write_text("no Parquet")
    elif kind == "empty":
        odd.write_bytes(b"")
    elif kind == "folder":
        odd.mkdir()
    elif kind == "columns":
        parquet.write_table(table.drop_columns(["basis"]), odd)
    elif kind == "types":
        index = table.schema.get_field_index("value")
        parquet.write_table(table.set_column(index, "value", pyarrow.array(["1"] * len(table))), odd)
    elif kind == "year":
        index = table.schema.get_field_index("when_utc")
        far = pyarrow.array([2**60] * len(table), pyarrow.timestamp("ms"))
        parquet.write_table(table.set_column(index, table.schema.field(index), far), odd)
    else:
        stream = io.BytesIO()
        parquet.write_table(table.slice(0, 0), stream)
        odd.write_bytes(stream.getvalue())


@pytest.mark.parametrize("kind", ["cut", "flipped", "text", "empty", "folder", "columns", "types", "year", "no rows"])
def test_a_file_that_is_not_of_a_history_is_refused_by_name(add_run: Callable[..., Path], kind: str) -> None:
    folder = add_run("01")
    write_odd(folder, kind)
    with pytest.raises(DataError, match=r"odd\.parquet: expected a Parquet file that `mbdeploy history add` wrote"):
        query({"folder": str(folder), "model": None}, ignore_progress)


@pytest.mark.slow
def test_the_child_s_refusal_reaches_the_caller_as_it_was(add_run: Callable[..., Path]) -> None:
    folder = add_run("01")
    assert len(history(folder=folder).lines) == 10
    write_odd(folder, "cut")
    with pytest.raises(DataError, match=r"odd\.parquet: expected a Parquet file"):
        history(folder=folder)
