"""Which variants are built and which are measured, from what is predicted."""

from __future__ import annotations

import msgspec

from mbdeploy.searching.ranking import LEAST_ERROR, UNKNOWN_ERROR, Candidate, bound_error, choose_finals, may_meet
from mbdeploy.searching.report import Fit


def make_fit(largest: float | None) -> Fit:
    return Fit(
        recipe="fp32",
        basis="layers",
        networks=3,
        left_out=(),
        median_error=None if largest is None else 0.0,
        largest_error=largest,
        coefficients_ns={},
    )


def make_candidate(name: str, reward: float, latency_ns: float) -> Candidate:
    return Candidate(
        name=name, rewards={"fp32": 0.1, "int8": reward}, latency_ns={"fp32": 100 * latency_ns, "int8": latency_ns}
    )


def test_the_error_is_the_largest_known_one_never_below_a_fifth_and_all_where_nobody_knows() -> None:
    assert bound_error([make_fit(0.3), make_fit(0.1)]) == 0.3
    assert bound_error([make_fit(0.01)]) == LEAST_ERROR
    assert bound_error([make_fit(0.01), make_fit(None)]) == UNKNOWN_ERROR


def test_a_variant_may_meet_the_target_by_its_fastest_file() -> None:
    assert may_meet({"fp32": 99.0, "int8": 12.0}, 10.0, 0.2)
    assert not may_meet({"fp32": 99.0, "int8": 12.1}, 10.0, 0.2)


def test_what_may_meet_the_target_goes_before_what_may_not_whatever_the_reward() -> None:
    slow, good, poor = make_candidate("slow", 0.9, 20), make_candidate("good", 0.7, 9), make_candidate("poor", 0.5, 2)
    assert choose_finals([slow, good, poor], 2, 10.0, 0.2) == ["good", "poor"]
    assert choose_finals([slow], 2, 10.0, 0.2) == ["slow"]


def test_the_reward_that_counts_is_that_of_a_file_that_may_meet_the_target() -> None:
    trap = Candidate(name="trap", rewards={"fp32": 0.9, "int8": 0.4}, latency_ns={"fp32": 50, "int8": 5})
    fair = Candidate(name="fair", rewards={"fp32": 0.6, "int8": 0.5}, latency_ns={"fp32": 50, "int8": 5})
    assert choose_finals([trap, fair], 1, 10.0, 0.2) == ["fair"]


def test_where_nothing_may_meet_the_target_the_fastest_are_measured() -> None:
    far = [make_candidate("slow", 0.9, 30), make_candidate("slower", 0.95, 40), make_candidate("fast", 0.1, 20)]
    assert choose_finals(far, 2, 10.0, 0.2) == ["fast", "slow"]


def test_a_measured_time_needs_no_margin() -> None:
    known, guessed = make_candidate("known", 0.6, 9.9), make_candidate("guessed", 0.8, 11)
    sure = make_candidate("sure", 0.5, 8)
    measured = msgspec.structs.replace(known, measured=True)
    assert choose_finals([guessed, known, sure], 2, 10.0, 0.2) == ["guessed", "sure"]
    assert choose_finals([guessed, measured, sure], 2, 10.0, 0.2) == ["guessed", "known"]
    late = msgspec.structs.replace(guessed, measured=True)
    assert choose_finals([late, sure], 1, 10.0, 0.2) == ["sure"]


def test_one_that_meets_the_target_for_sure_is_measured() -> None:
    near = [make_candidate(f"near{index}", 0.8, 10.5) for index in range(3)]
    sure, surer = make_candidate("sure", 0.6, 8), make_candidate("surer", 0.5, 1)
    assert choose_finals([*near, surer, sure], 3, 10.0, 0.2) == ["near0", "near1", "sure"]
    assert choose_finals([*near, make_candidate("best", 0.9, 8), sure], 2, 10.0, 0.2) == ["best", "near0"]
