"""Budgets from figures: the slack of each, the worst figure, and the lines of a card, to the last digit."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from mbdeploy.errors import DataError
from mbdeploy.estimate import Interval, estimate_proportion
from mbdeploy.gating.budgets import Budget, derive_budgets, replace_lines, write_lines
from mbdeploy.gating.measured import Measured
from mbdeploy.results import Check, Metrics
from mbdeploy.stages.facts import ParityFact


def measure(
    *,
    fp32: float = 3e-6,
    simplified: float = 2e-5,
    sqnr_db: float = 20.0,
    top1: float | None = 0.9,
    images: int = 100,
    gaps: tuple[float, ...] = (0.1,),
    ratios: tuple[Interval | None, ...] = (),
) -> Measured:
    facts = [
        ParityFact(
            model=model,
            provider="cpu",
            output="y",
            executed=Metrics(
                images=images, elements=9, max_abs=max_abs, sqnr_db=sqnr_db, cosine=1.0, top1_agreement=top1
            ),
            exact=None,
            saturation=None,
            elsewhere=(),
        )
        for model, max_abs in (("fp32", fp32), ("simplified", simplified), ("int8", 0.5))
    ]
    other = Check(name="sqnr_db", subject="m", value=99.0, bound=0, comparison=">=", passed=True)
    checks = [Check(name="exact_gap_db", subject="m", value=gap, bound=0, comparison="<=", passed=True) for gap in gaps]
    latency: Any = SimpleNamespace(models=[SimpleNamespace(ratio=ratio) for ratio in ratios])
    return Measured(checks=(other, *checks), parity=tuple(facts), latency=(latency,))


def derive(*parts: Measured, **keywords: Any) -> dict[str, Budget]:
    return {one.key: one for one in derive_budgets(parts, **keywords)}


@pytest.mark.parametrize(
    ("measured", "value"), [(3.1e-6, 3e-5), (9e-7, 1e-5), (1e-6, 1e-5), (1.4e-6, 1e-5), (1.6e-6, 2e-5), (0.02, 0.2)]
)
def test_a_difference_gets_ten_times_itself_to_one_digit_and_at_least_1e_5(measured: float, value: float) -> None:
    for key, budget in (("fp32", "export_max_abs"), ("simplified", "simplify_max_abs")):
        found = derive(measure(**{key: measured}))[budget]
        assert (found.measured, found.value) == (measured, pytest.approx(value))
        assert found.slack == "10 times, at least 1e-05"


@pytest.mark.parametrize(
    ("sqnr_db", "value"), [(20.0, 18.0), (20.06, 18.0), (20.16, 18.1), (101.9, 99.9), (math.inf, 100)]
)
def test_noise_gets_two_db_less_rounded_down_to_a_tenth_and_at_most_100(sqnr_db: float, value: float) -> None:
    found = derive(measure(sqnr_db=sqnr_db))["int8_sqnr_db"]
    assert (found.measured, found.value, found.slack) == (sqnr_db, pytest.approx(value), "2 dB")


@pytest.mark.parametrize(("gap", "value"), [(0.1, 0.4), (0.123, 0.43), (0.0, 0.3), (-2.0, 0.3), (1.0, 1.3)])
def test_the_gap_gets_three_tenths_more_rounded_up_and_never_less(gap: float, value: float) -> None:
    found = derive(measure(gaps=(gap,)))["int8_exact_gap_db"]
    assert (found.measured, found.value, found.slack) == (gap, pytest.approx(value), "0.3 dB")


@pytest.mark.parametrize("gaps", [(), (math.nan,), (0.1, math.nan), (math.inf,)])
def test_a_gap_that_is_no_number_gives_no_budget(gaps: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="expected a gap to the exact run"):
        derive(measure(gaps=gaps))


def test_agreement_gets_the_lower_end_of_its_interval_rounded_down() -> None:
    found = derive(measure(top1=0.9, images=100))["int8_top1_agreement"]
    low = estimate_proportion(90, 100).low
    assert found.value == math.floor(100 * low) / 100 == 0.82
    assert (found.measured, found.slack) == (0.9, "the 95 % interval of 100 images")
    assert "int8_top1_agreement" not in derive(measure(top1=None))


def test_the_worst_of_several_decides_each() -> None:
    found = derive(
        measure(fp32=2e-5, sqnr_db=30.0, top1=0.5, gaps=(0.1, 0.2)), measure(fp32=5e-6, sqnr_db=10.0, top1=0.6)
    )
    worst = {"export_max_abs": 2e-5, "int8_sqnr_db": 10.0, "int8_top1_agreement": 0.5, "int8_exact_gap_db": 0.2}
    assert {key: found[key].measured for key in worst} == worst


def test_time_gets_a_tenth_more_than_the_upper_end_and_only_where_it_is_asked_for() -> None:
    ratios = tuple(
        Interval(value=value, low=0.4, high=high, n=30, confidence=0.95) for value, high in ((0.5, 0.7004), (0.6, 0.65))
    )
    part = measure(ratios=(None, *ratios))
    assert "latency_ratio" not in derive(part)
    found = derive(part, with_latency=True)["latency_ratio"]
    assert (found.measured, found.value, found.slack) == (0.5, 0.771, "10 % on the interval")


def test_a_line_shows_the_value_the_measurement_and_the_slack() -> None:
    budgets = [
        Budget(key="a", measured=0.12345, value=3.0, slack="much"),
        Budget(key="b", measured=1.0, value=3e-5, slack="s"),
    ]
    assert write_lines(budgets) == [
        "a = 3.0  # measured 0.1235, slack: much",
        "b = 3e-05  # measured 1, slack: s",
    ]
    assert write_lines([Budget(key="c", measured=1.0, value=0.25, slack="s")]) == ["c = 0.25  # measured 1, slack: s"]


ONE = [Budget(key="int8_sqnr_db", measured=9.0, value=7.0, slack="2 dB")]
LINE = "int8_sqnr_db = 7.0  # measured 9, slack: 2 dB"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("int8_sqnr_db = 1\n[budgets]", f"int8_sqnr_db = 1\n[budgets]\n{LINE}\n"),
        ("a = 1", f"a = 1\n\n[budgets]\n{LINE}\n"),
        ("[budgets]\nint8_sqnr_db = 1\n[labels]\nb = 2", f"[budgets]\n{LINE}\n[labels]\nb = 2\n"),
        ("[budgets]\nother = 1\n[labels]\nb = 2", f"[budgets]\n{LINE}\nother = 1\n[labels]\nb = 2\n"),
        ("[labels]\nint8_sqnr_db = 1\n  [ budgets ]\n", f"[labels]\nint8_sqnr_db = 1\n  [ budgets ]\n{LINE}\n"),
        ("[budgets]\nint8_sqnr_db = 1\n[x]\nint8_sqnr_db = 5", f"[budgets]\n{LINE}\n[x]\nint8_sqnr_db = 5\n"),
    ],
)
def test_only_the_line_of_a_budget_in_its_own_table_is_replaced(text: str, wanted: str) -> None:
    assert replace_lines(text, ONE) == wanted
