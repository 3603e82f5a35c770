"""Bias correction: the predicted shift is the real one, and the means are exact in any order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbdeploy.quant.bias import MeanObserver, predict_shift


def test_the_shift_of_a_grouped_layer_is_error_times_its_own_groups_mean():
    view = np.array([[[1.0, 2.0]], [[3.0, 4.0]]], np.float32)  # two groups of two input channels, one output each
    integers, scales = np.array([[[1, 2]], [[4, 4]]]), np.array([1.0, 1.0], np.float32)
    assert predict_shift(view, integers, scales, np.array([10.0, 20.0, 30.0, 40.0])).tolist() == [0.0, 30.0]


def test_the_shift_is_what_a_convolution_without_padding_shows():
    rng = np.random.default_rng(0)
    view, scales = rng.normal(size=(4, 1, 6)).astype(np.float32), np.full(4, 0.1, np.float32)
    integers = np.rint(view / scales[:, None, None])
    inputs = rng.uniform(0, 3, (500, 6))
    moved = (inputs @ (integers * 0.1 - view)[:, 0].T).mean(axis=0)
    assert predict_shift(view, integers, scales, inputs.mean(axis=0)) == pytest.approx(moved, abs=1e-6)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_means_do_not_depend_on_the_order_or_the_sharding(values, random):
    def observe(order):
        merged = MeanObserver()
        for value in order:
            alone = MeanObserver()
            alone.update({"t": np.array([value, 2 * value], np.float32)})
            merged.merge(alone)
        return merged.read()["t"].tolist()

    shuffled = list(values)
    random.shuffle(shuffled)
    assert observe(values) == observe(shuffled)
    assert observe(values) == pytest.approx([np.mean(values), 2 * np.mean(values)], abs=1e-6)


def test_a_huge_mean_cannot_overflow_the_sum():
    observer = MeanObserver()
    for _ in range(3):
        observer.update({"t": np.array([1e30], np.float32)})
    assert observer.read()["t"][0] == 65536.0
