"""Observers: exact, and indifferent to the order of the images and to sharding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mbdeploy.quant.observers import BINS, HistogramObserver, RangeObserver

shards = st.lists(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=8), min_size=1, max_size=5)


@given(shards, st.randoms(use_true_random=False))
def test_shards_in_any_order_give_the_same_range_and_counts(parts, random):
    def observe(order):
        ranges, merged = RangeObserver(["t"]), HistogramObserver({"t": (-10.0, 10.0)})
        for part in order:
            values = np.array(part, np.float32)
            alone, counted = RangeObserver(["t"]), HistogramObserver({"t": (-10.0, 10.0)})
            alone.update("t", float(values.min()), float(values.max()))
            counted.update("t", values)
            ranges.merge(alone)
            merged.merge(counted)
        return ranges.low["t"], ranges.high["t"], merged.counts["t"].tolist()

    shuffled = list(parts)
    random.shuffle(shuffled)
    assert observe(parts) == observe(shuffled)
    everything = np.concatenate([np.array(part, np.float32) for part in parts])
    assert observe(parts)[:2] == (everything.min(), everything.max())


def test_values_fall_into_the_bin_they_lie_in():
    observer = HistogramObserver({"t": (0.0, float(BINS))})
    observer.update("t", np.array([0.0, 0.5, 1.0, BINS - 0.5, BINS, -3.0], np.float32))
    counts = observer.counts["t"]
    assert (counts[0], counts[1], counts[BINS - 1], counts.sum()) == (3, 1, 2, 6)


def test_a_large_tensor_is_counted_whole():
    values = np.random.default_rng(0).normal(size=(1, 3, 300, 301)).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    observer = HistogramObserver({"t": (low, high)})
    observer.update("t", values)
    expected, _ = np.histogram(values, bins=BINS, range=(low, high))
    assert observer.counts["t"].sum() == values.size
    assert np.abs(observer.counts["t"] - expected).sum() <= 200  # values on an edge, in float32


def test_nan_stays_visible_in_a_range_whatever_comes_after():
    observer = RangeObserver(["t"])
    for low, high in ((0.0, 1.0), (np.nan, np.nan), (-1.0, 2.0)):
        observer.update("t", low, high)
    assert np.isnan(observer.low["t"]) and np.isnan(observer.high["t"])


def test_a_constant_tensor_is_counted_in_one_bin():
    observer = HistogramObserver({"t": (2.0, 2.0)})
    observer.update("t", np.full((4, 4), 2.0, np.float32))
    assert observer.counts["t"][0] == 16
