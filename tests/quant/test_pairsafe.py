"""Pair-safe scales: arithmetic against a numpy model of the x86 instruction that saturates."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mbdeploy.quant.pairsafe import find_clipping, pair_safe_scales, pair_sums, plain_scales


def multiply_as_avx2(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """PMADDUBSW and the sum of its lanes: u8 x s8 products of neighbours added in saturating int16."""
    if len(weights) % 2:
        activations, weights = np.append(activations, 0), np.append(weights, 0)
    products = activations.astype(np.int64) * weights.astype(np.int64)
    return np.clip(products[0::2] + products[1::2], -32768, 32767).sum()


def worst_activations(weights: np.ndarray) -> list[np.ndarray]:
    """The inputs that drive every pair to its extremes, upwards and downwards."""
    return [np.where(weights > 0, 255, 0), np.where(weights < 0, 255, 0), np.full(weights.shape, 255)]


finite = st.floats(-1e3, 1e3, width=32)
views = hnp.array_shapes(min_dims=3, max_dims=3, max_side=7).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=finite)
)


@given(views)
def test_pair_safe_integers_never_saturate_in_either_pairing(view):
    scales = np.where(pair_safe_scales(view) > 0, pair_safe_scales(view), 1.0)
    integers = np.clip(np.rint(view / scales[:, None, None]), -128, 127).astype(np.int64)
    for channel in integers:
        for row in (channel.reshape(-1), *channel):
            for activations in worst_activations(row):
                assert multiply_as_avx2(activations, row) == np.dot(activations, row)
    assert not find_clipping(integers).any()


@given(views)
def test_pair_safe_scales_lie_between_plain_scales_and_twice_them(view):
    plain, safe = plain_scales(view), pair_safe_scales(view)
    assert (safe >= plain).all()
    assert (safe <= 2 * plain * 127 / 127.5 + 1e-12).all()


@settings(deadline=None)
@given(
    hnp.arrays(
        np.int8,
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5)),
        elements=st.integers(-128, 127),
    )
)
def test_the_quick_saturation_test_equals_its_definition_by_pair_sums(integers):
    flat = pair_sums(integers.reshape(len(integers), 1, -1)).max(axis=(1, 2))
    expected = np.maximum(flat, pair_sums(integers).max(axis=(1, 2))) > 128
    np.testing.assert_array_equal(find_clipping(integers), expected)
    np.testing.assert_array_equal(find_clipping(integers.astype(np.int64)), expected)


def test_two_neighbours_of_127_saturate_and_are_found():
    integers = np.array([[[127, 127]], [[127, -127]], [[64, 64]]])
    assert find_clipping(integers).tolist() == [True, False, False]
    assert multiply_as_avx2(np.array([255, 255]), np.array([127, 127])) == 32767
    assert 255 * 127 * 2 == 64770


def test_an_odd_channel_count_pairs_differently_in_the_two_orders():
    # Three input channels at two positions. Flat pairs: (1,0) (0,5) (5,0); padded a position: (1,0) (0,0) (5,5) (0,0).
    view = np.array([[[1.0, 0.0, 0.0], [5.0, 5.0, 0.0]]], np.float32)
    assert pair_sums(view.reshape(1, 1, -1)).tolist() == [[[1.0, 5.0, 5.0]]]
    assert pair_sums(view).tolist() == [[[1.0, 0.0], [10.0, 0.0]]]
    assert pair_safe_scales(view)[0] == 10.0 / 127.5


def test_opposite_signs_do_not_grow_a_scale():
    view = np.array([[[4.0, -4.0]]], np.float32)
    assert pair_safe_scales(view)[0] == plain_scales(view)[0] == 4.0 / 127
