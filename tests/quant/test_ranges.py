"""Ranges and scales: never zero, never without zero, and each method does what its name says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbdeploy.quant.ranges import METHODS, choose_range, choose_scale

numbers = st.floats(-1e30, 1e30)
N = 2048


@given(numbers, numbers, st.booleans())
def test_no_scale_is_zero_nan_or_infinite_and_zero_is_exact(first, second, signed):
    chosen = choose_scale((min(first, second), max(first, second)), signed=signed)
    assert np.isfinite(chosen.scale) and chosen.scale > 0
    limits = (-128, 127) if signed else (0, 255)
    assert limits[0] <= chosen.zero_point <= limits[1]
    assert chosen.low <= 0 <= chosen.high
    if signed:
        assert chosen.zero_point == 0


@given(st.floats(-1e4, 0), st.floats(0, 1e4).filter(lambda high: high > 1e-3))
def test_the_ends_of_the_range_are_within_one_step(low, high):
    chosen = choose_scale((low, high), signed=False)
    assert (0 - chosen.zero_point) * chosen.scale == pytest.approx(low, abs=chosen.scale)
    assert (255 - chosen.zero_point) * chosen.scale == pytest.approx(high, abs=chosen.scale)


def test_relu6_keeps_its_six_at_every_method():
    """A hundredth of a per cent of values at six, most of them zero: as after a sparse ReLU6."""
    counts = np.zeros(N, np.int64)
    counts[0] = 900_000
    counts[1:-1] = 48
    counts[-1] = 2_000
    for method in METHODS:
        assert choose_range(method, (0.0, 6.0), (0.0, 6.0), counts) == pytest.approx((0.0, 6.0), abs=6 / N), method


def test_a_lone_outlier_is_cut_off():
    counts = np.zeros(N, np.int64)
    centres = (np.arange(N) + 0.5) / N * 100
    counts[:] = np.rint(1e6 * np.exp(-centres))
    counts[-1] = 1
    for method in METHODS:
        low, high = choose_range(method, (0.0, 100.0), (0.0, 100.0), counts)
        assert low == 0.0
        assert high < 60.0, method


@pytest.mark.parametrize("method", METHODS)
def test_a_range_never_leaves_what_was_observed_for_the_edges_of_a_bin(method):
    counts = np.full(64, 1000, np.int64)
    low, high = choose_range(method, (-0.9, 0.9), (-1.0, 1.0), counts)
    assert -0.9 <= low < high <= 0.9


@given(st.integers(0, 2**32 - 1), st.floats(-50, 0), st.floats(0.1, 50))
@settings(max_examples=25, deadline=None)
def test_every_method_stays_inside_what_was_observed(seed, low, high):
    counts = np.random.default_rng(seed).integers(0, 3, N) * np.random.default_rng(seed + 1).integers(0, 500, N)
    for method in METHODS:
        chosen = choose_range(method, (low, high), (low, high), counts)
        assert low - 1e-6 <= chosen[0] < chosen[1] <= high + 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_histogram_keeps_what_was_observed(method):
    assert choose_range(method, (-1.0, 2.0), (-1.0, 2.0), np.zeros(N, np.int64)) == pytest.approx((-1.0, 2.0))
