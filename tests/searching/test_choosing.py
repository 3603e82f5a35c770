"""Which of the measured files is taken, and why."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mbdeploy.cli.endings import judge_target
from mbdeploy.estimate import Interval
from mbdeploy.searching.choosing import choose_row, mark_front, read_quality
from mbdeploy.searching.report import Found
from mbdeploy.searching.target import judge_latency
from mbdeploy.sweeping.jobs import Made


def make_row(variant: str, low: float, high: float, **changes: Any) -> Found:
    latency = Interval(value=(low + high) / 2, low=low, high=high, n=9, confidence=0.95)
    fields: dict[str, Any] = {
        "variant": variant,
        "alpha": None,
        "size": 224,
        "recipe": "portable",
        "path": f"{variant}.onnx",
        "sha256": "0",
        "predicted_ns": None,
        "latency": latency,
        "clock": "cpu",
        "quality": 0.7,
        "top1": None,
        "sqnr_db": 20.0,
        "reward": 0.7,
        "verdict": judge_latency(latency, 8e6),
        "size_bytes": 1,
    }
    return Found(**{**fields, **changes})


def test_the_highest_reward_of_those_that_meet_the_target_is_taken() -> None:
    rows = [make_row("a", 5e6, 6e6), make_row("b", 4e6, 5e6, reward=0.72), make_row("c", 9e6, 9.1e6, reward=0.9)]
    assert choose_row(rows, 8e6) == (1, "the highest reward of 2 of 3 measured files that meet 8 ms")


def test_what_only_may_meet_the_target_is_taken_only_if_nothing_does() -> None:
    rows = [make_row("wide", 7e6, 9e6, reward=0.9), make_row("sure", 7e6, 7.5e6)]
    assert choose_row(rows, 8e6)[0] == 1
    chosen, reason = choose_row(rows[:1], 8e6)
    assert chosen == 0 and "may meet 8 ms; measure longer" in reason


def test_nothing_is_taken_where_all_miss_and_the_fastest_is_named() -> None:
    chosen, reason = choose_row([make_row("a", 9e6, 9.2e6), make_row("b", 8.4e6, 8.6e6)], 8e6)
    assert chosen is None
    assert reason == "no measured file meets 8 ms; the fastest is portable of b with 8.5 ms"
    assert choose_row([], 8e6) == (None, "nothing was measured")


@pytest.mark.parametrize(("verdict", "code"), [("met", 0), ("inconclusive", 4), ("missed", 1), (None, 1)])
def test_the_exit_code_is_that_of_the_file_chosen(verdict: str | None, code: int) -> None:
    assert judge_target(verdict) == code


def test_a_file_whose_quality_is_no_number_is_never_taken() -> None:
    rows = [make_row("blind", 5e6, 6e6, quality=math.nan, reward=math.nan), make_row("sound", 6e6, 7e6)]
    assert choose_row(rows, 8e6)[0] == 1
    assert choose_row(rows[:1], 8e6)[0] is None


def test_the_front_is_what_no_other_row_beats_in_quality_and_time() -> None:
    rows = [make_row("a", 5e6, 5e6), make_row("slow", 6e6, 6e6), make_row("good", 7e6, 7e6, quality=0.8)]
    assert [row.on_front for row in mark_front(rows)] == [True, False, True]
    assert all(row.on_front for row in mark_front([make_row("a", 5e6, 5e6), make_row("same", 5e6, 5e6)]))


def test_quality_is_top1_or_the_share_of_power_that_is_no_error() -> None:
    half = Interval(value=0.5, low=0.4, high=0.6, n=9, confidence=0.95)
    made = Made(recipe="portable", path="p", sha256="0", size_bytes=1, sqnr_db=10.0, top1=half)
    assert read_quality(made, "top1") == 0.5
    assert read_quality(made, "sqnr") == pytest.approx(10 / 11)
    blind = Made(recipe="portable", path="p", sha256="0", size_bytes=1, sqnr_db=math.inf)
    assert math.isnan(read_quality(blind, "top1")) and read_quality(blind, "sqnr") == 1.0
