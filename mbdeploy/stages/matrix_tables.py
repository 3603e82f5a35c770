"""The matrix as tables: one row a cell, its gates, and where failing cells begin to fail."""

from __future__ import annotations

from mbdeploy.stages.bisect import Divergence
from mbdeploy.stages.figures import tabulate_checks
from mbdeploy.stages.matrix import MatrixReport
from mbdeploy.stages.tables import Table
from mbdeploy.stages.wording import name_decibels, name_verdict

_CAUSES = {"runtime": "executed otherwise", "rounding": "rounded", "file": "the file itself"}


def tabulate_matrix(report: MatrixReport) -> list[Table]:
    """Cells, then the gates that do not hold, then the first node of each that was traced."""
    several = len({row.output for row in report.rows}) > 1
    images = max((row.reference.images for row in report.rows), default=0)
    rows = tuple(
        (
            f"{row.model}: {row.output}" if several else row.model,
            row.provider,
            row.way,
            name_decibels(row.reference.sqnr_db),
            "n/a" if row.reference.top1_agreement is None else f"{100 * row.reference.top1_agreement:.1f} %",
            name_decibels(row.exact.sqnr_db),
            "n/a" if row.exact.max_lsb is None else f"{row.exact.max_lsb:.3g}",
            name_verdict(row.passed),
        )
        for row in report.rows
    )
    cells = Table(
        title=f"Matrix over {images} images",
        columns=("file", "on", "session", "SQNR dB", "top-1", "exact dB", "LSB", "verdict"),
        rows=rows,
        notes=(
            "SQNR, top-1: against the reference. exact dB, LSB: against the same file's exact outputs (session none).",
        ),
        left=(0, 1, 2),
    )
    wrong = [check for check in report.checks if check.passed is not True]
    return [cells, *tabulate_checks(wrong), *_tabulate_divergences(report)]


def _tabulate_divergences(report: MatrixReport) -> list[Table]:
    if not report.divergences:
        return []
    rows = tuple(
        (
            one.subject,
            _CAUSES[one.cause],
            f"{one.operator} {one.node}".strip() or "n/a",
            name_decibels(one.before),
            _end(one),
        )
        for one in report.divergences
    )
    notes = tuple(f"{one.subject}: {one.note}" for one in report.divergences if one.note)
    notes += tuple(f"{one.subject}: {one.measure}, before and after" for one in report.divergences if one.node)
    notes += tuple(f"reduced: {place}/show.py" for place in report.reduced)
    columns = ("cell", "what", "first node", "before", "after")
    return [Table(title="Where it begins", columns=columns, rows=rows, notes=notes, left=(0, 1, 2))]


def _end(one: Divergence) -> str:
    return name_decibels(one.after) + (f" ({one.after_lsb:.0f} LSB)" if one.after_lsb is not None else "")
