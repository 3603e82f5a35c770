"""A sweep's plan on the screen, and its rows for a table file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import msgspec

from mbdeploy.errors import UnavailableError
from mbdeploy.stages.tables import Table
from mbdeploy.swept import Planned, Row, SweepReport


def describe_plan(plan: Sequence[Planned]) -> str:
    """The plan in one line: what is there, what is to do, and how long that may take."""
    todo = [item for item in plan if not item.kept]
    known = [item.expected_s for item in todo if item.expected_s is not None]
    text = f"{len(plan)} items: {len(plan) - len(todo)} kept from earlier runs, {len(todo)} to do"
    if known:
        text += f", about {_name_time(sum(known))} by one worker"
        text += f" (without {len(todo) - len(known)} of which nothing is known)" if len(known) < len(todo) else ""
    return text


def tabulate_plan(report: SweepReport) -> list[Table]:
    """Every item of the plan."""
    return tabulate_items(report.plan)


def tabulate_items(plan: Sequence[Planned]) -> list[Table]:
    """Every item of a plan, and its sum."""
    rows = tuple(
        (item.name, "kept" if item.kept else "unknown" if item.expected_s is None else _name_time(item.expected_s))
        for item in plan
    )
    return [Table(title="Plan", columns=("item", "time"), rows=rows, notes=(describe_plan(plan),))]


def write_parquet(report: SweepReport) -> bytes:
    """The rows as a Parquet file; intervals become three columns.

    Raises:
        UnavailableError: no package ``pyarrow``.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UnavailableError(
            expected="pyarrow, which writes Parquet",
            found="no such package",
            todo="run `pip install mbdeploy[parquet]`",
        ) from error
    stream = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([_flatten(row) for row in report.rows]), stream)
    return stream.getvalue()


def _flatten(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in msgspec.structs.asdict(row).items():
        if key in ("top1", "ratio"):
            flat |= {f"{key}_{part}": getattr(value, part, None) for part in ("value", "low", "high")}
            continue
        flat[key] = value
    return flat


def _name_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
