"""The front of a sweep, and what MACs say of time."""

from __future__ import annotations

from typing import Any

import pytest

from mbdeploy.estimate import Interval
from mbdeploy.swept import Row, derive_rows, judge_macs, mark_front


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


@pytest.mark.parametrize("other", [{"provider": "cuda"}, {"threads": 2}, {"host": 1}])
def test_rows_of_another_host_provider_or_number_of_threads_are_no_rivals(other: dict[str, Any]) -> None:
    rows = [make_row("a"), make_row("b", macs=200, latency_ns=9e6, **other)]
    assert all(row.on_front for row in mark_front(rows)[0])
    assert judge_macs(rows) == []


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


def test_rows_without_their_times_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        derive_rows([make_row("a")], [])
