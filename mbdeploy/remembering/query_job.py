"""The child that asks a history: every Parquet file is checked, then DuckDB reads the rows of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mbdeploy.errors import DataError
from mbdeploy.isolate import Progress
from mbdeploy.remembering.measurement import COLUMNS, EARLIEST, LATEST
from mbdeploy.remembering.recording import make_schema
from mbdeploy.results import encode_result

#: More than any result has: a file that claims more is not ours.
_MOST_ROWS = 1_000_000
_MOST_BYTES = 256 << 20
#: One line is what may be compared: everything but the time, the file's bytes and the versions that follow from these.
_LINE = "model, variant, recipe, provider, threads, batch_size, host_class, metric, basis"
_QUERY = f"""
SELECT {", ".join(f"strftime({name}, '%Y-%m-%dT%H:%M:%SZ')" if name == "when_utc" else name for name in COLUMNS)},
    lag(value) OVER line, lag(low) OVER line, lag(high) OVER line
FROM measurements
WHERE $model IS NULL OR model = $model
WINDOW line AS (PARTITION BY {_LINE} ORDER BY when_utc, result)
ORDER BY model, host_class, provider, threads NULLS FIRST, batch_size NULLS FIRST, variant, recipe, metric, basis,
    when_utc, result
"""
#: DuckDB sees the rows that it is given, and neither files nor the network nor our variables.
_CLOSED = {
    "enable_external_access": False,
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "threads": 1,
}


def query(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """The rows of ``request["folder"]`` of the model ``request["model"]`` (None: all), each with the value before it.

    The answer has the ``rows`` as JSON, whose numbers may be infinite, and every model's name.

    Raises:
        DataError: a file that is no part of a history, or is damaged.
    """
    import duckdb
    import pyarrow

    paths = sorted(Path(request["folder"]).glob("*.parquet"))
    tables = []
    for done, path in enumerate(paths):
        on_progress("history", done, len(paths))
        tables.append(_read(path))
    connection = duckdb.connect(":memory:", config=_CLOSED)
    connection.register("measurements", pyarrow.concat_tables(tables))
    rows = connection.execute(_QUERY, {"model": request["model"]}).fetchall()
    models = connection.execute("SELECT DISTINCT model FROM measurements ORDER BY model").fetchall()
    columns = (*COLUMNS, "before", "before_low", "before_high")
    plain = [dict(zip(columns, row, strict=True)) for row in rows]
    return {"rows": encode_result(plain).decode(), "models": [name for (name,) in models]}


def _read(path: Path) -> Any:
    """One file's rows. It is read here and not by DuckDB, whose paths are patterns: no folder's name may be one."""
    from pyarrow import compute, parquet

    schema = make_schema()
    try:
        with path.open("rb") as stream:
            file = parquet.ParquetFile(stream)
            if not file.schema_arrow.equals(schema):
                raise ValueError("other columns")
            size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
            if not (0 < file.metadata.num_rows <= _MOST_ROWS and size <= _MOST_BYTES):
                raise ValueError(f"{file.metadata.num_rows} rows in {size} bytes")
            table = file.read()
            table.validate(full=True)
        times = compute.min_max(table.column("when_utc")).as_py()
        if table.column("when_utc").null_count or not EARLIEST <= times["min"] <= times["max"] <= LATEST:
            raise ValueError("times that cannot be")
    except Exception as error:  # pyarrow raises nearly anything on damaged files
        raise DataError(
            where=path,
            expected="a Parquet file that `mbdeploy history add` wrote",
            found=str(error).partition("\n")[0] or type(error).__name__,
            todo="move it out of the history, and add the result again",
        ) from error
    return table
