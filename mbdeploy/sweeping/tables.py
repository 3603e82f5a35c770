"""A sweep on the screen, and as rows for a table file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import msgspec

from mbdeploy.errors import UnavailableError
from mbdeploy.stages.tables import Table, format_bytes
from mbdeploy.sweeping.report import Misled, Planned, Row, SweepReport


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


def tabulate_sweep(report: SweepReport) -> list[Table]:
    """The rows with the front marked, and what MACs say of time."""
    columns = ("variant", "recipe", "on", "MMACs", "top-1 %", "SQNR dB", "ms", "vs FP32", "file", "peak", "front")
    notes = ["front: no other file on the same provider is as good in quality, time, size and peak, and better in one."]
    if report.quality == "sqnr_db":
        notes.append(
            "Quality is SQNR against each network's own FP32, for want of labels or of trained weights: it says what "
            "8 bits cost a network, not which network is better."
        )
    rows = tuple(_show(row) for row in report.rows)
    tables = [Table(title="Sweep", columns=columns, rows=rows, notes=tuple(notes), left=(0, 1, 2))]
    if report.misled:
        tables.append(_tabulate_macs(report.misled))
    return tables


def _tabulate_macs(misled: Sequence[Misled]) -> Table:
    rows = tuple(
        (
            one.recipe,
            f"{one.provider}, {one.threads} t",
            f"{one.wrong} of {one.pairs}",
            f"{one.spread:.2f}",
            f"{one.fewer}: {one.macs_ratio:.2f} of the MACs of {one.more}, {one.time_ratio:.2f} of its time"
            if one.wrong
            else "",
        )
        for one in misled
    )
    return Table(
        title="How far MACs mislead",
        columns=("recipe", "on", "pairs", "spread", "the worst"),
        rows=rows,
        notes=("pairs: slower with fewer MACs. spread: the largest time for a MAC over the smallest.",),
        left=(0, 1, 4),
    )


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


def _show(row: Row) -> tuple[str, ...]:
    return (
        row.variant,
        row.recipe,
        f"{row.provider}, {row.threads} t",
        f"{row.macs / 1e6:.1f}",
        "n/a" if row.top1 is None else f"{100 * row.top1.value:.1f}",
        f"{row.sqnr_db:.1f}",
        f"{row.latency_ns / 1e6:.2f}",
        "" if row.ratio is None else f"{row.ratio.value:.2f}",
        format_bytes(row.size_bytes),
        format_bytes(row.peak_bytes),
        "*" if row.on_front else "",
    )


def _name_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
