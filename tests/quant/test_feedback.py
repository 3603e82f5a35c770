"""Rounding with feedback: what it reports is real, it beats plain rounding, and no pair leaves the safe range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbdeploy.quant.feedback import round_with_feedback
from mbdeploy.quant.pairsafe import find_clipping, find_partners


def draw_covariance(rng, groups, terms, *, common=1.0):
    """Positive definite; ``common`` is how strongly all terms go together."""
    mixed = rng.normal(0, 1, (groups, terms, 2 * terms)) + common * rng.normal(0, 1, (groups, 1, 2 * terms))
    return np.matmul(mixed, mixed.transpose(0, 2, 1)) / (2 * terms) + 0.01 * np.eye(terms)


def measure(weights, rounded, covariance):
    """The real mean square output error of each row."""
    error = weights - rounded.integers * rounded.scales[..., np.newaxis]
    return np.einsum("gri,gij,grj->gr", error, covariance, error)


@pytest.mark.parametrize("terms", [7, 64, 65, 150])
def test_independent_inputs_get_plain_rounding(terms):
    rng = np.random.default_rng(terms)
    weights, scales = rng.uniform(-100, 100, (2, 3, terms)), np.ones((2, 3))
    covariance = np.stack([np.eye(terms), 4.0 * np.eye(terms)])
    rounded = round_with_feedback(weights, covariance, scales, find_partners(terms, 1, paired=False))
    np.testing.assert_array_equal(rounded.integers, np.rint(weights))
    np.testing.assert_allclose(rounded.error[1], 4 * np.square(weights[1] - np.rint(weights[1])).sum(axis=-1))


@pytest.mark.parametrize("terms", [9, 32, 100])
def test_on_correlated_inputs_the_error_is_clearly_below_that_of_plain_rounding(terms):
    rng = np.random.default_rng(terms)
    weights, scales = rng.uniform(-60, 60, (2, 8, terms)), np.ones((2, 8))
    covariance = draw_covariance(rng, 2, terms, common=3.0)
    rounded = round_with_feedback(weights, covariance, scales, find_partners(terms, 1, paired=False))
    plain = rounded._replace(integers=np.rint(weights).astype(np.int32))
    fed_back, nearest = measure(weights, rounded, covariance), measure(weights, plain, covariance)
    assert (fed_back <= nearest).mean() > 0.8  # greedy: a row may lose a little
    assert fed_back.mean() < 0.6 * nearest.mean()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9999), st.integers(1, 3), st.integers(1, 40), st.floats(0.02, 3.0))
def test_the_error_reported_is_the_real_one_and_blocks_do_not_matter(seed, groups, terms, scale):
    rng = np.random.default_rng(seed)
    weights, scales = rng.normal(0, 30, (groups, 2, terms)), np.full((groups, 2), scale)
    covariance = draw_covariance(rng, groups, terms)
    rounded = round_with_feedback(weights, covariance, scales, find_partners(1, terms, paired=True))
    np.testing.assert_allclose(rounded.error, measure(weights, rounded, covariance), rtol=1e-6, atol=1e-9)


def test_the_error_is_real_beyond_one_block():
    rng = np.random.default_rng(0)
    weights, scales = rng.normal(0, 40, (1, 3, 200)), np.full((1, 3), 0.5)
    covariance = draw_covariance(rng, 1, 200)
    rounded = round_with_feedback(weights, covariance, scales, find_partners(8, 25, paired=True))
    np.testing.assert_allclose(rounded.error, measure(weights, rounded, covariance), rtol=1e-6)
    assert not find_clipping(rounded.integers.reshape(3, 8, 25)).any()


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 9999),
    st.integers(1, 5),
    st.integers(1, 9),
    st.sampled_from([1e-30, 1e-3, 0.1, 0.5, 1.0, 3.0]),
    st.sampled_from([-1.0, 0.0, 1.0]),
)
def test_no_pair_leaves_the_safe_range_in_either_pairing_even_at_scales_far_too_small(
    seed, positions, channels, scale, sign
):
    rng = np.random.default_rng(seed)
    terms = positions * channels
    weights = rng.normal(100 * sign, 60, (2, 3, terms))
    covariance = draw_covariance(rng, 2, terms, common=2.0)
    partners = find_partners(positions, channels, paired=True)
    rounded = round_with_feedback(weights, covariance, np.full((2, 3), scale), partners)
    assert np.abs(rounded.integers).max() <= 127
    assert np.isfinite(rounded.error).all()
    assert not find_clipping(rounded.integers.reshape(6, positions, channels)).any()


def test_depthwise_kernels_may_use_the_whole_range():
    weights = np.full((1, 1, 9), 127.0)
    covariance = np.eye(9)[np.newaxis]
    free = round_with_feedback(weights, covariance, np.ones((1, 1)), find_partners(9, 1, paired=False))
    bound = round_with_feedback(weights, covariance, np.ones((1, 1)), find_partners(9, 1, paired=True))
    assert free.integers.reshape(-1).tolist() == [127] * 9
    assert bound.integers.reshape(-1).tolist() == [127, 1] * 4 + [127]


def test_the_second_of_a_pair_that_had_to_give_way_is_made_up_for_by_what_follows():
    weights, covariance = np.array([[[127.0, 127.0, 0.0, 0.0]]]), np.full((1, 4, 4), 1.0) + 0.01 * np.eye(4)
    rounded = round_with_feedback(weights, covariance, np.ones((1, 1)), find_partners(1, 4, paired=True))
    assert rounded.integers[0, 0, :2].tolist() == [127, 1]
    assert abs(rounded.integers.sum() - 254) <= 1


def test_opposite_signs_do_not_bind_a_pair():
    weights = np.array([[[127.0, -127.0]]])
    rounded = round_with_feedback(weights, np.eye(2)[np.newaxis], np.ones((1, 1)), find_partners(1, 2, paired=True))
    assert rounded.integers.reshape(-1).tolist() == [127, -127]


def test_the_weights_given_are_left_as_they_are():
    weights = np.full((1, 2, 5), 0.3)
    round_with_feedback(weights, 0.5 + 0.5 * np.eye(5)[np.newaxis], np.ones((1, 2)), find_partners(1, 5, paired=True))
    assert (weights == 0.3).all()


@pytest.mark.parametrize(
    ("positions", "channels", "flat", "padded"),
    [
        (2, 2, [1, 0, 3, 2], [1, 0, 3, 2]),
        (2, 3, [1, 0, 3, 2, 5, 4], [1, 0, 2, 4, 3, 5]),
        (1, 3, [1, 0, 2], [1, 0, 2]),
        (3, 1, [1, 0, 2], [0, 1, 2]),
        (3, 3, [1, 0, 3, 2, 5, 4, 7, 6, 8], [1, 0, 2, 4, 3, 5, 7, 6, 8]),
    ],
)
def test_partners_are_neighbours_in_the_flat_order_and_within_each_position(positions, channels, flat, padded):
    assert find_partners(positions, channels, paired=True).tolist() == [flat, padded]


def test_without_pairs_every_term_is_its_own_partner():
    assert find_partners(3, 2, paired=False).tolist() == [[0, 1, 2, 3, 4, 5]] * 2
