"""P-values from intervals, and Holm's correction: arithmetic, and what it does to gates."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbdeploy.estimate import Interval
from mbdeploy.gating.holm import ALPHA, adjust_p_values, compute_p_value, correct_gates, say_p_values
from mbdeploy.gating.report import Gate

shares = st.floats(0, 1)


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high, n=100, confidence=0.95)


def test_holm_s_own_arithmetic_on_three_values() -> None:
    assert adjust_p_values([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(st.lists(shares, max_size=12))
def test_an_adjusted_value_is_never_smaller_and_keeps_the_order(values: list[float]) -> None:
    adjusted = adjust_p_values(values)
    assert all(before <= after <= 1 for before, after in zip(values, adjusted, strict=True))
    order = sorted(range(len(values)), key=lambda index: values[index])
    assert [adjusted[index] for index in order] == sorted(adjusted)


def test_an_interval_that_ends_at_the_bound_is_worth_its_tail() -> None:
    ratio = interval(1.1, 1.0, 1.21)  # symmetric on a log scale
    assert compute_p_value(ratio, 1.0) == pytest.approx(0.025, abs=1e-6)
    assert compute_p_value(ratio, 1.1) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("ratio", "bound", "p_value"),
    [
        (interval(math.nan, math.nan, math.nan), 1.0, 1.0),
        (interval(2.0, 0.0, math.inf), 1.0, 1.0),
        (interval(1.2, 1.2, 1.2), 1.0, 0.0),
        (interval(1.0, 1.0, 1.0), 1.0, 1.0),
        (interval(0.0, 0.5, 2.0), 1.0, 1.0),
        (interval(2.0, 1.0, 4.0), 0.0, 1.0),
        (interval(2.0, 1.0, 4.0), math.inf, 1.0),
        (interval(2.0, 0.0, 4.0), 1.0, 1.0),
        (interval(2.0, 1.0, 0.0), 1.0, 1.0),
    ],
)
def test_an_interval_that_says_nothing_accuses_nobody(ratio: Interval, bound: float, p_value: float) -> None:
    assert compute_p_value(ratio, bound) == p_value


def test_a_failure_that_many_gates_explain_becomes_inconclusive(make_gate: Callable[..., Gate]) -> None:
    gates = [make_gate("baseline_latency", False, p_value=0.03), *[make_gate("latency_ratio", p_value=0.9)] * 4]
    first, *others = correct_gates(gates)
    assert first.check.passed is None
    assert "5 gates were judged at once" in first.check.note
    assert first.adjusted == pytest.approx(0.15)
    assert all(gate.check.passed is True for gate in others)


def test_a_sure_failure_and_a_gate_without_chance_stay_failures(make_gate: Callable[..., Gate]) -> None:
    gates = [make_gate("baseline_latency", False, p_value=1e-6), make_gate("sqnr_db", False)]
    corrected = correct_gates(gates)
    assert [gate.check.passed for gate in corrected] == [False, False]
    assert say_p_values(corrected[0]) == "p < 0.0001, after Holm's correction < 0.0001"
    assert say_p_values(corrected[1]) == ""


def test_a_p_value_is_said_only_where_both_are_known_and_below_a_ten_thousandth_not_to_the_digit(
    make_gate: Callable[..., Gate],
) -> None:
    assert say_p_values(make_gate(p_value=0.01)) == say_p_values(make_gate(adjusted=0.01)) == ""
    said = say_p_values(make_gate(p_value=1e-4, adjusted=0.5))
    assert said == "p = 0.0001, after Holm's correction = 0.5"
    assert say_p_values(make_gate(p_value=9e-5, adjusted=1.0)) == "p < 0.0001, after Holm's correction = 1"


def test_a_p_value_of_zero_is_certain_and_one_at_alpha_still_fails(make_gate: Callable[..., Gate]) -> None:
    gates = [make_gate("baseline_latency", False, p_value=0.0), make_gate("latency_ratio", False, p_value=ALPHA)]
    corrected = correct_gates(gates)
    assert [gate.adjusted for gate in corrected] == [0.0, ALPHA]
    assert [gate.check.passed for gate in corrected] == [False, False]
