"""A history as it is asked: lines of one metric over time, with the change against the run before; never a gate."""

from __future__ import annotations

import math
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.errors import DataError, UsageError
from mbdeploy.isolate import Progress, demand_value, ignore_progress, run_step
from mbdeploy.remembering.measurement import Dated, Source
from mbdeploy.remembering.metrics import find_metric
from mbdeploy.remembering.recording import FOLDER, demand_packages
from mbdeploy.results import SCHEMA_VERSION
from mbdeploy.watch import Limits

NO_GATE = (
    "This is no gate: runs of different days had unlike neighbours, and no number here passes or fails. "
    "`mbdeploy check --baseline` compares two versions now."
)
_LIMITS = Limits(wall_s=600.0, memory_bytes=8 << 30)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a line: when, of which file, by which result and version of mbdeploy, and its value.

    ``change`` is against the run before: a share of it, or a difference where the metric is in dB or shares; None for
    the first. ``overlaps`` says whether the two intervals do, None where there are none.
    """

    when_utc: str
    dated: Dated
    value: float
    low: float | None
    high: float | None
    n: int | None
    change: float | None
    overlaps: bool | None
    sha256: str
    result: str
    source: Source
    mbdeploy: str


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one model on one class of hosts over time; all that a value depends on is the same in all of it."""

    model: str
    variant: str
    recipe: str
    provider: str
    threads: int | None
    batch_size: int | None
    host_class: str
    metric: str
    basis: str
    points: tuple[Point, ...]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of one model, or of all; ``host_classes`` in the order of appearance. ``note`` says that it is no gate."""

    folder: str
    model: str | None
    lines: tuple[Line, ...]
    host_classes: tuple[str, ...]
    note: str = NO_GATE
    schema_version: int = SCHEMA_VERSION


def history(model: str | None = None, *, folder: Path = FOLDER, on_progress: Progress = ignore_progress) -> History:
    """What ``folder`` remembers of ``model``, or of all models.

    Rules: 1. numbers are in one line only if model, variant, recipe, provider, threads, batch size, class of hosts and
    basis are the same: unlike hosts are never compared. 2. Every file of the folder is read by a child under limits.

    Raises:
        UnavailableError: no DuckDB or pyarrow. DataError: no history, or a file in it that is damaged or not of it.
        UsageError: a model that it does not know.
    """
    demand_packages()
    if not any(folder.glob("*.parquet")):
        raise DataError(
            where=folder,
            expected="a history",
            found="no Parquet file" if folder.is_dir() else "no such folder",
            todo="check the path, or add a result with `mbdeploy history add OUT`",
        )
    outcome = run_step(
        "mbdeploy.remembering.query_job:query",
        {"folder": str(folder.absolute()), "model": model},
        limits=_LIMITS,
        on_progress=on_progress,
    )
    answer = demand_value(
        outcome,
        where=folder,
        expected="Parquet files that can be read",
        todo="move out the file that was added last, and try again",
    )
    rows = [_restore(row) for row in msgspec.json.decode(answer["rows"])]
    if model is not None and not rows:
        raise UsageError(
            where=model,
            expected=f"a model that {folder} knows",
            found=f"only {', '.join(answer['models'])}",
            todo="name one of these, or none for all",
        )
    lines = tuple(_make_line(dict(key), list(group)) for key, group in groupby(rows, key=_name_line))
    classes = tuple(dict.fromkeys(line.host_class for line in lines))
    return History(folder=str(folder), model=model, lines=lines, host_classes=classes)


def _name_line(row: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, row[name]) for name in Line.__struct_fields__ if name != "points")


def _make_line(key: dict[str, Any], rows: list[dict[str, Any]]) -> Line:
    return Line(**key, points=tuple(_make_point(row) for row in rows))


def _make_point(row: dict[str, Any]) -> Point:
    value, before = row["value"], row["before"]
    change = overlaps = None
    if before is not None and math.isfinite(value) and math.isfinite(before):
        relative = find_metric(row["metric"]).relative
        change = value - before if not relative else value / before - 1 if before else None
    bounds = (row["low"], row["high"], row["before_low"], row["before_high"])
    if all(bound is not None for bound in bounds):
        overlaps = row["low"] <= row["before_high"] and row["before_low"] <= row["high"]
    own = {name: row[name] for name in Point.__struct_fields__ if name not in ("change", "overlaps")}
    return Point(**own, change=change, overlaps=overlaps)


def _restore(row: dict[str, Any]) -> dict[str, Any]:
    """JSON names the numbers that it lacks."""
    named = ("value", "low", "high", "before", "before_low", "before_high")
    return {**row, **{name: None if row[name] is None else float(row[name]) for name in named}}
