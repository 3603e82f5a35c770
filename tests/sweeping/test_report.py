"""The front of a sweep, and what MACs say of time."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import pytest

from mbdeploy.errors import UnavailableError
from mbdeploy.estimate import Interval
from mbdeploy.results import decode_result, encode_result
from mbdeploy.sweeping.report import Planned, Row, SweepReport, judge_macs, mark_front
from mbdeploy.sweeping.tables import describe_plan, tabulate_sweep, write_parquet


def make_row(variant: str, **changes: Any) -> Row:
    fields: dict[str, Any] = {
        "variant": variant,
        "alpha": 1.0,
        "size": 224,
        "recipe": "portable",
        "provider": "cpu",
        "threads": 1,
        "macs": 100,
        "parameters": 10,
        "sqnr_db": 20.0,
        "top1": None,
        "latency_ns": 1e6,
        "clock": "cpu",
        "ratio": None,
        "size_bytes": 1000,
        "peak_bytes": 5000,
    }
    return Row(**{**fields, **changes})


def interval(value: float) -> Interval:
    return Interval(value=value, low=value, high=value, n=9, confidence=0.95)


def test_a_row_that_is_beaten_in_everything_is_not_on_the_front() -> None:
    rows = [make_row("a"), make_row("slow", latency_ns=2e6), make_row("good", sqnr_db=30.0, latency_ns=3e6)]
    marked, quality = mark_front(rows)
    assert [row.on_front for row in marked] == [True, False, True]
    assert quality == "sqnr_db"
    assert all(row.on_front for row in mark_front([make_row("a"), make_row("same")])[0])


def test_rows_of_another_provider_or_number_of_threads_are_no_rivals() -> None:
    rows = [make_row("a"), make_row("a", provider="cuda", latency_ns=9e6), make_row("a", threads=2, latency_ns=9e6)]
    assert all(row.on_front for row in mark_front(rows)[0])


def test_accuracy_is_quality_only_if_every_row_has_it() -> None:
    better, worse = make_row("a", sqnr_db=1.0, top1=interval(0.7)), make_row("b", top1=interval(0.6))
    marked, quality = mark_front([better, worse])
    assert (quality, [row.on_front for row in marked]) == ("top1", [True, False])
    marked, quality = mark_front([better, worse, make_row("c")])
    assert (quality, [row.on_front for row in marked]) == ("sqnr_db", [False, True, True])


def test_pairs_that_macs_order_wrongly_are_counted_and_the_worst_is_named() -> None:
    rows = [
        make_row("small", macs=100, latency_ns=3e6),
        make_row("middle", macs=200, latency_ns=2e6),
        make_row("large", macs=400, latency_ns=4e6),
        make_row("alone", recipe="accurate"),
    ]
    (found,) = judge_macs(rows)
    assert (found.recipe, found.pairs, found.wrong) == ("portable", 3, 1)
    assert (found.fewer, found.more, found.macs_ratio, found.time_ratio) == ("small", "middle", 0.5, 1.5)
    assert found.spread == pytest.approx(3.0)


def test_the_plan_in_a_line_says_what_is_there_and_what_is_known() -> None:
    plan = [Planned(name=n, kept=kept, expected_s=s) for n, kept, s in (("a", True, None), ("b", False, 100.0))]
    assert describe_plan(plan) == "2 items: 1 kept from earlier runs, 1 to do, about 1 min 40 s by one worker"
    more = [*plan, Planned(name="c", kept=False, expected_s=None)]
    assert describe_plan(more).endswith("(without 1 of which nothing is known)")


def test_a_report_is_saved_shown_and_flattened() -> None:
    rows, quality = mark_front([make_row("a", ratio=interval(0.5)), make_row("b", macs=200)])
    report = SweepReport(plan=(), rows=tuple(rows), misled=tuple(judge_macs(rows)), quality=quality)
    assert decode_result(encode_result(report), SweepReport).rows == report.rows
    sweep, macs = tabulate_sweep(report)
    assert sweep.rows[0][:4] == ("a", "portable", "cpu, 1 t", "0.0") and sweep.rows[0][7] == "0.50"
    assert macs.rows == (("portable", "cpu, 1 t", "0 of 1", "2.00", ""),)
    if importlib.util.find_spec("pyarrow") is None:
        with pytest.raises(UnavailableError, match=r"mbdeploy\[parquet\]"):
            write_parquet(report)
        return
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(write_parquet(report))).to_pylist()
    assert [row["ratio_value"] for row in table] == [0.5, None]
    assert table[0]["variant"] == "a" and table[0]["top1_value"] is None
