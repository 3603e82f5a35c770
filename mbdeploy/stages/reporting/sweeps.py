"""What follows from a sweep's folder: every row derived again from its raw times, the front, and what MACs say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mbdeploy import artifact
from mbdeploy.artifact import refuse_result
from mbdeploy.derive import compare_series, judge_control
from mbdeploy.results import SCHEMA_VERSION, Host
from mbdeploy.stages.reporting.reading import SWEEP, SavedSweep
from mbdeploy.swept import Asked, Misled, Row, SweepReport, derive_rows, judge_macs, list_hosts, mark_front, split_rows

#: A sweep's word for the file that the others are made from, and that file.
_FILES = {"fp32": "simplified.onnx"}


class SweepFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep: its rows with the front marked, and how far MACs mislead. ``quality`` is what the front takes for it.

    ``unsteady`` names the runs whose A/A control does not pass: their times may be the neighbours' doing. ``stale``
    names variants of which other files lie there now than those that were timed.
    """

    sweep: str
    quality: str
    rows: tuple[Row, ...]
    misled: tuple[Misled, ...]
    hosts: tuple[Host, ...]
    asked: Asked = Asked()
    unsteady: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


def derive_sweep(saved: SavedSweep) -> SweepFacts:
    """The facts of a sweep; a pure function of its files.

    Raises:
        DataError: rows that are not those of the raw times, or none.
    """
    where = saved.folder / SWEEP
    try:
        return _derive(saved)
    except (ValueError, LookupError, ArithmeticError) as error:  # nobody's sweep: its parts do not fit
        raise refuse_result(where, f"rows without their times ({error})", "mbdeploy sweep") from error


def _derive(saved: SavedSweep) -> SweepFacts:
    found = saved.report
    rows = derive_rows(found.rows, found.runs)
    if not rows or not all(0 < row.latency_ns < math.inf and row.size_bytes >= 0 <= row.peak_bytes for row in rows):
        raise ValueError("no row, or times and sizes that cannot be")
    marked, quality = mark_front(rows)
    return SweepFacts(
        sweep=saved.folder.resolve().name,
        quality=quality,
        rows=tuple(marked),
        misled=tuple(judge_macs(marked)),
        hosts=tuple(list_hosts(found.runs)),
        asked=found.asked,
        unsteady=tuple(_list_unsteady(found)),
        stale=tuple(dict.fromkeys(_list_stale(saved))),
    )


def locate_file(folder: Path, row: Row) -> Path:
    """Where the file of a row lies."""
    return folder / row.variant / _FILES.get(row.recipe, f"{row.recipe}.onnx")


def _list_unsteady(found: SweepReport) -> Iterator[str]:
    for run, rows in split_rows(found.rows, found.runs):
        if judge_control(compare_series(run, -1), run.tolerance, rows[0].variant).passed is not True:
            yield f"{rows[0].variant} on {run.provider}, {run.threads} t"


def _list_stale(saved: SavedSweep) -> Iterator[str]:
    series = [series for run in saved.report.runs for series in run.series]
    for row, timed in zip(saved.report.rows, series, strict=True):
        here = artifact.read_sidecar(locate_file(saved.folder, row))
        if here is not None and here.sha256 != timed.model.sha256:
            yield f"{SWEEP} is of another {row.recipe} file of {row.variant} than the one that is here: sweep again"
