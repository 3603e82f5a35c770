"""Weights that are chosen are safe, close, and keep the sum of their channel."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import as_conv, make_qdq
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mbdeploy.auditing.choosing import choose_weights, fit_pairs, fit_singles, keep_sums
from mbdeploy.auditing.clipping import find_unsafe
from mbdeploy.auditing.products import read_products
from mbdeploy.quant.pairsafe import find_clipping

TARGETS = st.tuples(st.integers(1, 3), st.sampled_from([1, 4, 9]), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-140, 140, width=32))
)


@settings(max_examples=150, deadline=None)
@given(TARGETS)
def test_fitted_pairs_never_clip_in_either_pairing(target: np.ndarray) -> None:
    fitted = fit_pairs(target)
    assert np.abs(fitted).max(initial=0) <= 127
    assert not find_clipping(fitted.astype(np.int8)).any()
    kept = keep_sums(fitted, target)
    assert np.abs(kept).max(initial=0) <= 127
    assert not find_clipping(kept.astype(np.int8)).any()


@settings(max_examples=100, deadline=None)
@given(TARGETS)
def test_keeping_sums_brings_every_sum_closer(target: np.ndarray) -> None:
    fitted = fit_pairs(target)
    kept = keep_sums(fitted, target)
    before = np.abs((target - fitted).sum(axis=(1, 2)))
    after = np.abs((target - kept).sum(axis=(1, 2)))
    assert (after <= before + 1e-9).all()
    assert np.abs(kept - fitted).max(initial=0) <= 1


def test_what_a_pair_has_too_much_is_taken_off_both() -> None:
    assert fit_pairs(np.array([[[100.0, 90.0]]])).tolist() == [[[69, 59]]]
    assert fit_pairs(np.array([[[-100.0, -90.0]]])).tolist() == [[[-69, -59]]]
    assert fit_pairs(np.array([[[100.0, -90.0]]])).tolist() == [[[100, -90]]]


def test_a_lone_large_weight_beside_a_small_one_stays_nearly_as_it_is() -> None:
    [[[first, second]]] = fit_pairs(np.array([[[127.0, 3.0]]])).tolist()
    assert (first + second, abs(first - 127) + abs(second - 3)) == (128, 2)


def test_minus_128_becomes_minus_127() -> None:
    assert fit_singles(np.array([-128.0, 127.6])).tolist() == [-127, 127]


@pytest.mark.parametrize("rescale", [True, False])
def test_only_unsafe_channels_change_and_scales_only_grow(rescale: bool) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (6, 10)).astype(np.int8)
    weight[3:] //= 4
    weight[:3, 4:6] = 100
    [product] = read_products(make_qdq(as_conv(weight)), "file").products
    unsafe = find_unsafe(product)["pairs"]
    assert unsafe.tolist() == [True, True, True, False, False, False]
    target = product.view.astype(np.float64)
    none = np.zeros(6, np.bool_)
    choice = choose_weights(product, target, unsafe, none, rescale=rescale, pairs=True)
    assert not find_clipping(choice.integers.astype(np.int8)).any()
    assert np.array_equal(choice.integers[3:], product.view[3:])
    assert (choice.growth[3:] == 1).all()
    assert ((choice.growth[:3] > 1) == rescale).all()
    error = ((choice.integers * choice.growth[:, None, None] - target) ** 2).sum(axis=(1, 2))
    assert (error[:3] < (0.01 if rescale else 0.2) * (target[:3] ** 2).sum(axis=(1, 2))).all()
