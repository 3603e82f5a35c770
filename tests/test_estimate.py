"""Estimates: published numbers, coverage by simulation, and what must hold for any samples."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbdeploy import estimate
from mbdeploy.estimate import (
    _student_quantile,
    compute_mcnemar,
    estimate_paired_difference,
    estimate_percentile,
    estimate_proportion,
    estimate_ratio,
    estimate_ratio_of_sums,
    required_samples,
)

TIMES = st.lists(st.integers(1, 10**9), min_size=1, max_size=60)


@pytest.mark.parametrize(("percentile", "n"), [(50, 11), (90, 64), (95, 130), (99, 662), (99.9, 6636)])
def test_a_percentile_needs_as_many_samples_as_its_definition_says(percentile: float, n: int) -> None:
    q = percentile / 100
    assert required_samples(percentile) == n
    assert q**n + n * (1 - q) * q ** (n - 1) <= 0.01 < q ** (n - 1) + (n - 1) * (1 - q) * q ** (n - 2)


@pytest.mark.parametrize("percentile", [0, 100, -1, math.nan])
def test_a_percentile_that_is_none_is_refused(percentile: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 100"):
        required_samples(percentile)


def test_a_percentile_exists_only_with_the_samples_to_carry_it() -> None:
    samples = list(range(1, 65))
    assert estimate_percentile(samples[:63], 90) is None
    assert estimate_percentile(samples[::-1], 90) == 58
    assert estimate_percentile([], 50) is None


@given(st.lists(st.integers(1, 1000), min_size=11, max_size=80))
def test_a_percentile_is_a_value_that_was_seen_and_so_many_lie_at_or_below_it(samples: list[int]) -> None:
    found = estimate_percentile(samples, 50)
    assert found in samples
    assert sum(value <= found for value in samples) >= len(samples) / 2


@given(TIMES, st.integers(0, 5))
@settings(deadline=None, max_examples=25)
def test_a_series_against_itself_has_the_ratio_one(times: list[int], seed: int) -> None:
    found = estimate_ratio(times, times, seed=seed)
    assert (found.value, found.low, found.high, found.n) == (1, 1, 1, len(times))


@given(TIMES, st.sampled_from([0.5, 2.0, 4.0]))
@settings(deadline=None, max_examples=25)
def test_a_ratio_lies_in_its_interval_and_follows_the_factor(times: list[int], factor: float) -> None:
    rng = np.random.default_rng(len(times))
    candidate = np.array(times) * rng.uniform(0.9, 1.1, len(times))
    first, second = estimate_ratio(times, candidate), estimate_ratio(times, candidate * factor)
    assert first.low <= first.value * (1 + 1e-12) and first.value <= first.high * (1 + 1e-12)
    assert second.value == pytest.approx(first.value * factor)
    assert second.low == pytest.approx(first.low * factor)


def test_a_ratio_is_the_same_for_the_same_samples_and_seed() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.uniform(1, 2, 50), rng.uniform(1, 2, 50)
    assert estimate_ratio(first, second, seed=3) == estimate_ratio(first, second, seed=3)
    assert estimate_ratio(first, second, seed=3) != estimate_ratio(first, second, seed=4)


def test_a_slow_spell_that_hits_both_alike_does_not_move_the_ratio() -> None:
    spell = np.concatenate([np.ones(30), np.full(30, 3.0), np.ones(30)])
    found = estimate_ratio(100 * spell, 90 * spell)
    assert (found.low, found.value, found.high) == (pytest.approx(0.9),) * 3


def test_no_pairs_or_no_time_have_no_ratio() -> None:
    assert math.isnan(estimate_ratio([], []).value)
    assert math.isnan(estimate_ratio([0, 1], [1, 1]).value)
    with pytest.raises(ValueError, match="one length"):
        estimate_ratio([1], [1, 2])
    with pytest.raises(ValueError, match="processes of 1"):
        estimate_ratio([1, 2], [1, 2], processes=[0])


def test_a_long_series_is_resampled_in_pieces() -> None:
    times = np.tile([10.0, 12.0, 11.0], 4000)
    found = estimate_ratio(times, np.roll(times, 1))
    assert found.n == 12_000
    assert found.low <= found.value <= found.high


def test_the_interval_of_a_ratio_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        noise = np.convolve(rng.lognormal(0, 0.1, 42), [0.5, 0.3, 0.2], "valid")
        found = estimate_ratio(np.ones(40), noise / np.median(NOISE))
        hits += found.low <= 1 <= found.high
    assert 85 <= hits <= 100


def test_several_processes_have_students_interval_over_their_medians() -> None:
    logs = np.array([-0.01, 0.0, 0.01, 0.02, 0.03])
    candidate = np.repeat(np.exp(logs), 3)
    found = estimate_ratio(np.ones(15), candidate, processes=np.repeat(np.arange(5), 3))
    half = 2.776445 * np.std(logs, ddof=1) / math.sqrt(5)
    assert found.n == 15
    assert found.value == pytest.approx(math.exp(0.01))
    assert (found.low, found.high) == (pytest.approx(math.exp(0.01 - half)), pytest.approx(math.exp(0.01 + half)))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 5, 9])
def test_the_interval_of_few_processes_covers_the_truth_although_each_has_a_speed_of_its_own(count: int) -> None:
    rng = np.random.default_rng(count)
    processes = np.repeat(np.arange(count), 12)
    together, pooled = 0, 0
    for _ in range(200):
        times = np.exp(np.repeat(rng.normal(0, 0.02, count), 12) + rng.normal(0, 0.02, 12 * count))
        found = estimate_ratio(np.ones(len(times)), times, processes=processes)
        together += found.low <= 1 <= found.high
        alone = estimate_ratio(np.ones(len(times)), times) if count == 5 else found
        pooled += alone.low <= 1 <= alone.high
    assert 183 <= together <= 199
    assert count != 5 or pooled < 170  # what pairs alone claim


@given(st.floats(0.5, 0.999), st.integers(1, 60))
def test_students_t_comes_from_above_to_the_normal_distribution(confidence: float, freedom: int) -> None:
    normal = NormalDist().inv_cdf(0.5 + confidence / 2)
    t, next_t = _student_quantile(confidence, freedom), _student_quantile(confidence, freedom + 1)
    assert t > next_t > normal


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (30, 2.0423)])
def test_students_t_is_the_published_one(freedom: int, t: float) -> None:
    assert _student_quantile(0.95, freedom) == pytest.approx(t, abs=5e-5)


NOISE = np.convolve(np.random.default_rng(9).lognormal(0, 0.1, 100_002), [0.5, 0.3, 0.2], "valid")


def test_wilsons_interval_is_the_published_one() -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = estimate_proportion(hits, n)
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_proportion_lies_in_its_interval_and_misses_mirror_hits(hits: int, misses: int) -> None:
    n = hits + misses
    found, mirrored = estimate_proportion(hits, n), estimate_proportion(misses, n)
    if n == 0:
        assert math.isnan(found.value) and (found.low, found.high) == (0, 1)
        return
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low == pytest.approx(1 - mirrored.high)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200))
@settings(deadline=None)
def test_a_paired_difference_lies_in_its_interval_and_changes_its_sign_with_the_roles(
    gained: int, lost: int, rest: int
) -> None:
    n = gained + lost + rest
    found, mirrored = estimate_paired_difference(gained, lost, n), estimate_paired_difference(lost, gained, n)
    if n == 0:
        assert math.isnan(found.value)
        return
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.value == (gained - lost) / n
    assert found.low == pytest.approx(-mirrored.high, abs=1e-9)


def test_no_changed_answer_still_leaves_an_interval() -> None:
    found = estimate_paired_difference(0, 0, 300)
    assert found.value == 0
    assert found.high == pytest.approx(3.8415 / (300 + 3.8415), abs=1e-5)
    assert found.low == pytest.approx(-found.high)


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_so_it_does_with_a_handful_of_cases(n: int) -> None:
    found = estimate_paired_difference(0, 0, n)
    assert found.high == pytest.approx(3.841459 / (n + 3.841459), abs=1e-6)
    assert found.low == pytest.approx(-found.high)


@pytest.mark.parametrize(
    ("gained", "lost", "n"), [(8, 0, 200), (7, 0, 50), (0, 6, 40), (10, 3, 50), (1, 1, 9), (12, 40, 300)]
)
def test_the_ends_of_a_paired_interval_are_as_unlikely_as_its_confidence_says(gained: int, lost: int, n: int) -> None:
    """The score at either end is the quantile, with the likeliest share of losses found by trying them all."""
    found = estimate_paired_difference(gained, lost, n)
    for end, sign in ((found.low, 1), (found.high, -1)):
        least, most = max(0.0, -end), (1 - end) / 2
        losses = np.linspace(least, most, 400_001)[1:-1]
        likelihood = gained * np.log(losses + end) + lost * np.log(losses)
        likelihood += (n - gained - lost) * np.log(1 - 2 * losses - end) if n > gained + lost else 0.0
        share = losses[np.argmax(likelihood)]
        score = (gained - lost - n * end) / math.sqrt(n * (2 * share + end - end**2))
        assert score == pytest.approx(sign * 1.959964, abs=2e-3)


def test_the_paired_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for gained, lost, _ in rng.multinomial(200, [0.02, 0.06, 0.92], size=400):
        found = estimate_paired_difference(int(gained), int(lost), 200)
        inside += found.low <= -0.04 <= found.high
    assert 0.92 <= inside / 400 <= 0.98


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 32), (2, 8, 2 * 56 / 1024), (8, 2, 2 * 56 / 1024)]
)
def test_mcnemars_p_value_is_the_binomial_one(gained: int, lost: int, p: float) -> None:
    assert compute_mcnemar(gained, lost) == pytest.approx(p)


def test_mcnemar_holds_for_many_pairs() -> None:
    assert 0 < compute_mcnemar(5200, 5000) < 0.06
    assert compute_mcnemar(6000, 1000) == pytest.approx(0, abs=1e-12)


def test_a_ratio_of_sums_has_the_error_of_its_residuals() -> None:
    found = estimate_ratio_of_sums([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.value, found.low, found.high, found.n) == (2.0, 2.0, 2.0, 3)
    found = estimate_ratio_of_sums([1.0, 3.0], [1.0, 1.0], confidence=0.95)
    assert found.value == 2.0  # residuals -1 and 1: their error is sqrt(2 * 2 / 1) / 2 = 1
    assert found.high == pytest.approx(2 + 1.959964, abs=1e-6)


@pytest.mark.parametrize(("above", "below"), [([1.0], [2.0]), ([1.0, 1.0], [0.0, 0.0])])
def test_what_has_no_spread_to_measure_has_no_interval(above: list[float], below: list[float]) -> None:
    found = estimate_ratio_of_sums(above, below)
    assert (found.low, found.high) == (0.0, math.inf)


def test_the_same_samples_have_the_same_interval_on_every_machine() -> None:
    times = [1 + (index * 0.6180339887498949) % 1 for index in range(200)]
    found = estimate_ratio([1.0] * 200, times)
    assert (found.value, found.low, found.high) == pytest.approx(
        (1.5009596893627588, 1.4680318253715012, 1.532889043741065), abs=1e-12
    )
    narrow = estimate_ratio([1.0] * 200, times, confidence=0.9)
    assert (narrow.low, narrow.high) == pytest.approx((1.4721359549995796, 1.5247584249852935), abs=1e-12)


def test_two_processes_are_several() -> None:
    found = estimate_ratio([100] * 4, [110, 110, 121, 121], processes=[0, 0, 1, 1])
    assert (found.value, found.low, found.high) == pytest.approx(
        (1.1536897329871667, 0.6296758855815231, 2.113785886481558)
    )


def test_a_time_without_an_end_has_no_ratio() -> None:
    assert math.isnan(estimate_ratio([1.0, math.inf], [1.0, 1.0]).value)
    assert math.isnan(estimate_ratio([1.0, 1.0], [1.0, math.inf]).value)


def test_percentiles_of_many_samples_are_the_ranks_they_name() -> None:
    samples = list(range(1, 1001))
    assert [estimate_percentile(samples, percentile) for percentile in (50, 90, 95, 99)] == [500, 900, 950, 990]


def test_nothing_counted_has_no_share_and_every_bound() -> None:
    nothing, changed = estimate_proportion(0, 0), estimate_paired_difference(0, 0, 0)
    assert math.isnan(nothing.value) and math.isnan(changed.value)
    assert (nothing.low, nothing.high, nothing.n, nothing.confidence) == (0.0, 1.0, 0, 0.95)
    assert (changed.low, changed.high, changed.n, changed.confidence) == (-1.0, 1.0, 0, 0.95)


def test_intervals_say_what_they_are_made_of() -> None:
    changed, share = estimate_paired_difference(7, 3, 50), estimate_proportion(7, 50)
    assert (changed.value, changed.low, changed.high) == pytest.approx((0.08, -0.05015339723534672, 0.21590534924903))
    assert (changed.n, changed.confidence) == (50, 0.95)
    assert (share.value, share.low, share.high) == pytest.approx((0.14, 0.06950833427016294, 0.26186193710585537))
    assert (share.n, share.confidence) == (50, 0.95)
    sums = estimate_ratio_of_sums([1, 2, 3, 5], [2, 2, 4, 4])
    assert (sums.value, sums.low, sums.high) == pytest.approx((11 / 12, 0.49135540334666705, 1.3419779299866663))
    assert (sums.n, sums.confidence) == (4, 0.99)
    assert estimate_ratio_of_sums([1, 9], [5, 1]).low == 0.0


def test_pieces_of_any_size_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [1 + (index * 0.6180339887498949) % 1 for index in range(200)]
    whole = estimate_ratio([1.0] * 200, times)
    monkeypatch.setattr(estimate, "_CHUNK_ELEMENTS", 200 * 300)  # seven pieces, the last one smaller
    assert estimate_ratio([1.0] * 200, times) == whole


def test_three_pairs_are_drawn_one_by_one() -> None:
    # Of three draws out of (1, 2, 4) the median is 1 where two or three are 1: 7 of 27 times, and so is 4.
    found = estimate_ratio([1.0] * 3, [1.0, 2.0, 4.0], confidence=0.5)
    assert (found.value, found.low, found.high) == (2, 1, 4)


def test_sums_below_one_have_a_ratio() -> None:
    assert estimate_ratio_of_sums([0.1, 0.2], [0.2, 0.3]).value == pytest.approx(0.6)
