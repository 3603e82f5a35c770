"""Estimates from raw samples, each with its interval: ratios of paired times, percentiles, proportions."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

_RESAMPLES = 2000
_CHUNK_ELEMENTS = 1 << 20


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate from ``n`` samples and the interval around it at ``confidence`` (0..1)."""

    value: float
    low: float
    high: float
    n: int
    confidence: float


def estimate_ratio(
    baseline: ArrayLike,
    candidate: ArrayLike,
    *,
    processes: ArrayLike | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """The ratio candidate/baseline over pairs of times taken together, with its interval.

    Rules: 1. index i of both is one pair; NaN throughout if there is none. 2. ``processes[i]`` is the process
    that took pair i. A process has speeds of its own (where its memory lies, for one), which no number of its
    pairs averages out: with several, the ratio is the geometric mean of their medians, and the interval is
    Student's over the logarithms of these medians. 3. Pairs of one process (or None) give their median, and a
    bootstrap over blocks of n^(1/3) neighbours, which share their disturbances (the circular block bootstrap:
    Politis & Romano 1992); the same samples and seed give the same interval.
    """
    first, second = np.asarray(baseline, np.float64), np.asarray(candidate, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"pairs need two lists of one length, not {first.shape} and {second.shape}")
    n = len(first)
    if n == 0 or not all(((times > 0) & (times < math.inf)).all() for times in (first, second)):
        return Interval(value=math.nan, low=math.nan, high=math.nan, n=n, confidence=confidence)
    ratios = second / first
    places = np.zeros(n) if processes is None else np.asarray(processes)
    if places.shape != first.shape:
        raise ValueError(f"{n} pairs, and the processes of {len(places)}")
    medians = np.array([np.median(ratios[places == place]) for place in np.unique(places)])
    tail = (1 - confidence) / 2
    if len(medians) > 1:
        logs = np.log(medians)
        value = float(logs.mean())
        half = _student_quantile(confidence, len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
        value, low, high = math.exp(value), math.exp(value - half), math.exp(value + half)
    else:
        drawn = _resample_medians(ratios, np.random.default_rng(seed))
        value, (low, high) = float(medians[0]), np.percentile(drawn, [100 * tail, 100 * (1 - tail)])
    return Interval(value=value, low=float(low), high=float(high), n=n, confidence=confidence)


def required_samples(percentile: float, *, confidence: float = 0.99) -> int:
    """How many samples carry a percentile: 64 for p90, 130 for p95, 662 for p99.

    The fewest n for which, with ``confidence``, at least two of n samples lie above the true percentile,
    so that the sample's second largest, which one sample exceeds, is a bound on it:
    P(Binomial(n, 1 - q) <= 1) = q^n + n (1 - q) q^(n-1) <= 1 - confidence. (MLPerf's LoadGen asks the same
    of its early stopping.)
    """
    q = percentile / 100
    if not 0 < q < 1:
        raise ValueError(f"a percentile lies between 0 and 100, not at {percentile}")
    low, high = 1, 2
    while _at_most_one_above(high, q) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _at_most_one_above(middle, q) > 1 - confidence else (low, middle)
    return high


def estimate_percentile(samples: ArrayLike, percentile: float) -> float | None:
    """The percentile (nearest rank: a value that was seen), or None where the samples cannot carry it."""
    ordered = np.sort(np.asarray(samples))
    if len(ordered) < required_samples(percentile):
        return None
    return float(ordered[math.ceil(percentile / 100 * len(ordered)) - 1])


def estimate_proportion(hits: int, n: int, *, confidence: float = 0.95) -> Interval:
    """hits/n with Wilson's score interval, which holds for few samples and near 0 and 1 (Wilson 1927)."""
    if n == 0:
        return Interval(value=math.nan, low=0.0, high=1.0, n=0, confidence=confidence)
    z = _normal_quantile(confidence)
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # At the ends the bound is the end itself; rounding must not move it inside.
    return Interval(
        value=share, low=0.0 if hits == 0 else low, high=1.0 if hits == n else high, n=n, confidence=confidence
    )


def estimate_paired_difference(gained: int, lost: int, n: int, *, confidence: float = 0.95) -> Interval:
    """(gained − lost)/n, the difference of two proportions over the same n cases, with Tango's score interval.

    ``gained`` cases are hits of the second alone, ``lost`` of the first alone. The interval exists for
    gained = lost = 0 too, where resampling would claim certainty (Tango 1998, Statistics in Medicine 17:891).
    """
    if n == 0:
        return Interval(value=math.nan, low=-1.0, high=1.0, n=0, confidence=confidence)
    z, difference = _normal_quantile(confidence), (gained - lost) / n
    return Interval(
        value=difference,
        low=_find_root(lambda delta: _tango_score(gained, lost, n, delta) - z, -1.0, difference),
        high=_find_root(lambda delta: _tango_score(gained, lost, n, delta) + z, difference, 1.0),
        n=n,
        confidence=confidence,
    )


def estimate_ratio_of_sums(numerators: ArrayLike, denominators: ArrayLike, *, confidence: float = 0.99) -> Interval:
    """Sum over sum of paired values, with the interval that they have because the pairs are a sample.

    Source: Cochran, "Sampling Techniques", section 6.3 (the ratio estimator's standard error). One pair, or a zero
    sum below, has no interval: it reaches from 0 to infinity.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    total, n = float(below.sum()), len(above)
    ratio = float(above.sum()) / total if total > 0 else math.inf
    if n < 2 or not math.isfinite(ratio):
        return Interval(value=ratio, low=0.0, high=math.inf, n=n, confidence=confidence)
    deviation = math.sqrt(float(np.square(above - ratio * below).sum()) * n / (n - 1)) / total
    margin = _normal_quantile(confidence) * deviation
    return Interval(value=ratio, low=max(ratio - margin, 0.0), high=ratio + margin, n=n, confidence=confidence)


def compute_mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact two-sided p-value: how often a fair coin would part the discordant pairs so unevenly."""
    n, fewer = gained + lost, min(gained, lost)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(value) for value in logs))


def _resample_medians(values: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    n = len(values)
    block = max(1, round(n ** (1 / 3)))
    blocks = -(-n // block)
    medians = []
    step = max(1, _CHUNK_ELEMENTS // n)
    for done in range(0, _RESAMPLES, step):
        starts = random.integers(0, n, size=(min(step, _RESAMPLES - done), blocks, 1))
        indices = (starts + np.arange(block)) % n
        medians.append(np.median(values[indices.reshape(len(starts), -1)[:, :n]], axis=1))
    return np.concatenate(medians)


def _at_most_one_above(n: int, q: float) -> float:
    return float(q**n + n * (1 - q) * q ** (n - 1))


def _student_quantile(confidence: float, freedom: int) -> float:
    """How far from 0 Student's t with so many degrees of freedom stays with this probability."""
    return _find_root(lambda t: confidence - _student_inside(t, freedom), 0.0, 1e6)


def _student_inside(t: float, freedom: int) -> float:
    """P(|T| <= t): Abramowitz & Stegun, 26.7.3 (odd degrees of freedom) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for step in range(freedom // 2):
        total += term
        term *= math.cos(angle) ** 2 * (2 * step + 1 + odd) / (2 * step + 2 + odd)
    inside = math.sin(angle) * total
    return (angle + inside) * 2 / math.pi if odd else inside


def _normal_quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _tango_score(gained: int, lost: int, n: int, delta: float) -> float:
    """How many standard errors the counts lie above a true difference of ``delta``."""
    b = -gained - lost + (2 * n - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    # The share of cases that only the first hits, most likely under that difference.
    share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2 * share + delta * (1 - delta))
    return (gained - lost - n * delta) / math.sqrt(variance) if variance > 0 else 0.0


def _find_root(function: Any, low: float, high: float) -> float:
    """Where a falling function crosses 0 between the two; the nearer end if it does not."""
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2
