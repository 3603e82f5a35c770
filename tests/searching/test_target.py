"""A latency in the user's words, the reward of MnasNet, and whether an interval meets a target."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbdeploy.errors import UsageError
from mbdeploy.estimate import Interval
from mbdeploy.searching.target import compute_reward, judge_latency, parse_latency


def interval(low: float, high: float) -> Interval:
    return Interval(value=(low + high) / 2, low=low, high=high, n=9, confidence=0.95)


@pytest.mark.parametrize(
    ("word", "found_ns"),
    [("8ms", 8e6), ("800us", 8e5), ("800µs", 8e5), ("0.008s", 8e6), (" 2.5 ms ", 2.5e6), (".5ms", 5e5), ("7ns", 7)],
)
def test_a_latency_is_a_number_with_its_unit(word: str, found_ns: float) -> None:
    assert parse_latency(word) == pytest.approx(found_ns)


@pytest.mark.parametrize(
    "word", ["8", "", "ms", "0ms", "-3ms", "8 sec", "8m", "1e3ms", "nanms", "8MS", "٨ms", "1.2.3s"]
)
def test_a_latency_without_a_unit_or_above_nothing_is_refused_in_one_line(word: str) -> None:
    with pytest.raises(UsageError, match=r"--target-latency: expected .* such as 8ms, 800us or 0\.008s, found") as told:
        parse_latency(word)
    assert "\n" not in str(told.value)


def test_an_hour_is_the_most() -> None:
    assert parse_latency("3600s") == 3600e9
    with pytest.raises(UsageError):
        parse_latency("3601s")


def test_the_soft_reward_pays_for_speed_on_both_sides() -> None:
    assert compute_reward(0.7, 8e6, 8e6, -0.07) == 0.7
    assert compute_reward(0.7, 16e6, 8e6, -0.07) == pytest.approx(0.7 * 2**-0.07)
    assert compute_reward(0.7, 4e6, 8e6, -0.07) == pytest.approx(0.7 * 2**0.07)


def test_the_hard_reward_pays_for_nothing_below_the_target_and_divides_above_it() -> None:
    assert compute_reward(0.7, 1e6, 8e6, -0.07, hard=True) == 0.7
    assert compute_reward(0.7, 16e6, 8e6, -0.07, hard=True) == pytest.approx(0.35)


def test_a_reward_of_no_number_is_none() -> None:
    assert math.isnan(compute_reward(math.nan, 1.0, 1.0, -0.07))
    assert math.isnan(compute_reward(0.7, math.nan, 1.0, -0.07))
    assert math.isnan(compute_reward(0.7, 0.0, 1.0, -0.07))


@given(st.floats(0.01, 1), st.floats(1, 1e9), st.floats(1, 1e9), st.booleans())
def test_a_slower_file_of_one_quality_is_never_worth_more(quality: float, one: float, other: float, hard: bool) -> None:
    fast, slow = sorted((one, other))
    rewards = [compute_reward(quality, latency, 1e6, -0.07, hard=hard) for latency in (fast, slow)]
    assert rewards[0] >= rewards[1]


def test_a_target_is_met_by_a_whole_interval_missed_by_a_whole_one_and_else_nobody_knows() -> None:
    assert judge_latency(interval(6, 8), 8) == "met"
    assert judge_latency(interval(8.1, 9), 8) == "missed"
    assert judge_latency(interval(7, 9), 8) == "inconclusive"
    assert judge_latency(interval(math.nan, math.nan), 8) == "inconclusive"
