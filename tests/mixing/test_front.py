"""Which mix is taken, and why one is not."""

from __future__ import annotations

import math

import pytest

from mbdeploy.mixing.front import choose_fastest, choose_mix, compute_reward, foresee, mark_front, rank_mixes
from mbdeploy.mixing.report import Goals


def test_a_mix_that_another_beats_is_not_on_the_front(make_mix):
    mixes = [make_mix("a", 0.5, 20.0), make_mix("b", 0.6, 25.0), make_mix("c", 0.61, 24.0), make_mix("d", 0.5, 19.0)]
    assert [mix.on_front for mix in mark_front(mixes)] == [True, True, False, False]


def test_one_whose_interval_holds_fp32_s_time_is_not_taken(make_mix):
    assert choose_mix([make_mix("a", 0.97, 20.0, width=0.03)], Goals(min_sqnr=20.0))[0] is None


def test_two_equal_mixes_are_both_on_the_front(make_mix):
    assert [mix.on_front for mix in mark_front([make_mix("a", 0.5, 20.0), make_mix("b", 0.5, 20.0)])] == [True, True]


def test_the_fastest_of_those_accurate_enough_is_taken(make_mix):
    mixes = [make_mix("a", 0.5, 18.0), make_mix("b", 0.6, 21.0), make_mix("c", 0.7, 25.0)]
    taken, reason = choose_mix(mixes, Goals(min_sqnr=20.0))
    assert taken is mixes[1]
    assert reason == "the fastest of 2 of 3 mixes that reach the goals"


def test_of_those_that_cannot_be_told_apart_in_time_the_highest_reward_is_taken(make_mix):
    mixes = [
        make_mix("a", 0.500, 21.0, reward=0.90),
        make_mix("b", 0.515, 22.0, reward=0.95),
        make_mix("c", 0.530, 23.0, reward=0.99),  # slower than a, for sure
    ]
    taken, reason = choose_mix(mixes, Goals(min_sqnr=20.0))
    assert taken is mixes[1]
    assert reason == (
        "of 3 of 3 mixes that reach the goals 2 cannot be told apart in time from the fastest; "
        "it has the highest reward of these"
    )
    assert choose_mix(mixes, Goals(min_sqnr=22.5))[0] is mixes[2]  # a goal comes first


def test_mixes_are_ranked_by_their_reward_and_no_number_comes_last(make_mix):
    rewards = {"a": 0.9, "b": math.nan, "c": 0.99, "d": 0.95}
    mixes = [make_mix(name, 0.5, 20.0, reward=reward) for name, reward in rewards.items()]
    assert [mix.name for mix in rank_mixes(mixes)] == ["c", "d", "a", "b"]


def test_the_most_accurate_of_those_fast_enough_is_taken(make_mix):
    mixes = [make_mix("a", 0.5, 18.0), make_mix("b", 0.6, 21.0), make_mix("c", 0.7, 25.0)]
    taken, _ = choose_mix(mixes, Goals(target_ratio=0.65))
    assert taken is mixes[1]


def test_a_time_that_may_be_above_the_target_is_no_promise(make_mix):
    taken, reason = choose_mix([make_mix("a", 0.64, 20.0, width=0.02)], Goals(target_ratio=0.65))
    assert taken is None
    assert reason == "no mix reaches the goals; the best, a, misses 0.65 of FP32's time (0.640, up to 0.660)"


def test_a_mix_that_is_not_faster_than_fp32_is_never_taken(make_mix):
    taken, reason = choose_mix([make_mix("a", 0.995, 40.0)], Goals(min_sqnr=20.0))
    assert taken is None
    assert "a gain over optimised FP32 (0.995, up to 1.005)" in reason


@pytest.mark.parametrize("goals", [Goals(min_sqnr=1.0), Goals(max_drop=50.0)])
def test_no_figure_reaches_no_goal(make_mix, goals):
    assert choose_mix([make_mix("a", 0.5, math.nan, drop=math.nan)], goals)[0] is None


def test_what_fitting_brought_to_one_mix_is_expected_of_the_others(make_mix):
    mixes = [make_mix("a", 0.5, 15.0, drop=3.0), make_mix("b", 0.6, 18.0, drop=1.0), make_mix("c", 0.7, 20.0)]
    left = foresee(mixes, [make_mix("a", 0.5, 19.0, drop=1.5)])
    assert [(mix.name, mix.sqnr_db, mix.drop.value) for mix in left] == [("b", 22.0, 0.0), ("c", 24.0, 0.0)]


def test_before_anything_is_known_only_the_order_of_accuracy_counts(make_mix):
    mixes = [make_mix("a", 0.5, 15.0), make_mix("b", 0.6, 18.0)]
    assert choose_mix(foresee(mixes, []), Goals(min_sqnr=30.0))[0].name == "a"
    assert choose_mix(foresee(mixes, []), Goals(target_ratio=0.7))[0].name == "b"


def test_the_reward_is_that_of_mnasnet():
    assert compute_reward(drop=10.0, ratio=0.8, target=0.8) == pytest.approx(0.9)
    assert compute_reward(drop=0.0, ratio=1.6, target=0.8) == pytest.approx(2**-0.07)


def test_before_time_refuses_all_the_fastest_that_is_accurate_enough_is_named(make_mix):
    mixes = [make_mix("a", 1.2, 18.0), make_mix("b", 1.4, 21.0), make_mix("c", 1.3, 25.0)]
    assert choose_fastest(mixes, Goals(min_sqnr=20.0, target_ratio=0.5)) is mixes[2]
    assert choose_fastest(mixes, Goals(min_sqnr=30.0)) is None
