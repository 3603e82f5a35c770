"""Observers: exact, and indifferent to the order of the images and to sharding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mbdeploy.quant.observers import BINS, SAMPLES, HistogramObserver, RangeObserver

shards = st.lists(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=8), min_size=1, max_size=5)


def count(*parts):
    observer = HistogramObserver(["t"])
    for part in parts:
        values = np.array(part, np.float32)
        observer.update("t", values, float(np.abs(values).max()))
    return observer


@given(shards, st.randoms(use_true_random=False))
def test_shards_in_any_order_give_the_same_range_and_counts(parts, random):
    def observe(order):
        ranges, merged = RangeObserver(["t"]), HistogramObserver(["t"])
        for part in order:
            alone = RangeObserver(["t"])
            alone.update("t", min(part), max(part))
            ranges.merge(alone)
            merged.merge(count(part))
        return ranges.low["t"], ranges.high["t"], merged.exponents["t"], merged.counts["t"].tolist()

    shuffled = list(parts)
    random.shuffle(shuffled)
    everything = [value for part in parts for value in part]
    assert observe(parts) == observe(shuffled)
    assert observe(parts)[:2] == (min(everything), max(everything))
    assert count(*parts).counts["t"].tolist() == observe(parts)[3] == count(everything).counts["t"].tolist()


def test_values_fall_into_the_bin_they_lie_in():
    observer = count([0.0, 0.5, 7.999, -0.001, -8.0 + 1e-6, 5.0])
    edges, counts = observer.read("t", (-7.5, 7.999))
    width = 16 / BINS
    assert observer.exponents["t"] == 3
    assert edges == (-7.5, 8.0)
    assert counts.size == (edges[1] - edges[0]) / width
    zero = round(7.5 / width)
    assert [counts[zero], counts[zero + round(0.5 / width)], counts[zero - 1], counts[-1]] == [1, 1, 1, 1]
    assert counts.sum() == 5  # the sixth lies below what was asked for


def test_a_larger_value_later_merges_the_bins_of_what_came_before():
    observer = count([0.25, -0.25], [100.0])
    assert observer.exponents["t"] == 7
    _, counts = observer.read("t", (-0.25, 100.0))
    assert counts.sum() == 3 and counts[-1] == 1


def test_an_image_that_is_dead_in_a_tensor_does_not_coarsen_its_bins():
    assert count([0.001], [0.0, -0.0]).exponents["t"] == count([0.0], [0.001]).exponents["t"] == -9


def test_a_large_tensor_counts_with_a_sample_at_an_odd_stride():
    values = np.random.default_rng(0).normal(size=(1, 3, 300, 301)).astype(np.float32)
    observer = count(values)
    stride = (values.size // SAMPLES) | 1
    taken = values.reshape(-1)[::stride]
    edges, counts = observer.read("t", (float(values.min()), float(values.max())))
    expected, _ = np.histogram(taken, bins=len(counts), range=edges)
    assert counts.sum() == taken.size > 15_000
    assert np.abs(counts - expected).sum() <= 20  # values on an edge


def test_nan_stays_visible_in_a_range_whatever_comes_after():
    observer = RangeObserver(["t"])
    for low, high in ((0.0, 1.0), (np.nan, np.nan), (-1.0, 2.0)):
        observer.update("t", low, high)
    assert np.isnan(observer.low["t"]) and np.isnan(observer.high["t"])


def test_a_dead_tensor_is_counted_at_zero():
    edges, counts = count(np.zeros((4, 4))).read("t", (0.0, 0.0))
    assert edges[0] == 0.0 and counts.tolist() == [16]
