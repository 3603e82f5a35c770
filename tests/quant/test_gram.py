"""Moments from exact sums: any order, any sharding, and the errors that they predict are the real ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbdeploy.quant.gram import Gram, choose_unit, fix_targets, hold_bias, measure_error

SUMS = ("count", "inputs", "products", "outputs", "squares", "crossed")


def draw_samples(seed=0, groups=2, samples=50, terms=3, outputs=2):
    rng = np.random.default_rng(seed)
    patches = rng.integers(-255, 256, (groups, samples, terms)).astype(np.float32)
    mixed = np.matmul(patches, rng.normal(0, 1, (groups, terms, outputs))) + rng.normal(
        5, 30, (groups, samples, outputs)
    )
    return patches, mixed.transpose(1, 0, 2).reshape(samples, -1).astype(np.float32)


def sum_up(patches, targets, outputs):
    gram = Gram(len(patches), patches.shape[-1], outputs)
    gram.update(patches, targets)
    return gram


def assert_same(first, second):
    for name in SUMS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 700), max_size=4), st.integers(0, 99))
def test_the_sums_do_not_depend_on_order_or_sharding(cuts, seed):
    patches, values = draw_samples(seed, samples=700)
    targets = fix_targets(values, choose_unit(values))
    order = np.random.default_rng(seed).permutation(700)
    whole = sum_up(patches, targets, 2)
    shards = [
        sum_up(patches[:, order[part]], targets[order[part]], 2)
        for part in np.split(np.arange(700), sorted(cuts))
        if part.size
    ]
    merged = Gram(2, 3, 2)
    for shard in shards:
        merged = shard.merge(merged)
    assert_same(whole, merged)


@pytest.mark.parametrize("value", [255, -255])
def test_extreme_inputs_and_targets_are_summed_exactly(value):
    samples, target = 20_001, (1 << 20) - 1
    patches = np.full((1, samples, 2), value, np.float32)
    patches[0, ::3, 1] = -value
    gram = sum_up(patches, np.full((samples, 1), target, np.float32), 1)
    differing = samples - 2 * len(range(0, samples, 3))
    assert gram.products[0].tolist() == [[255**2 * samples, 255**2 * differing], [255**2 * differing, 255**2 * samples]]
    assert gram.crossed[0, 0].tolist() == [value * target * samples, value * target * differing]
    assert int(gram.squares[0, 0]) == target**2 * samples
    halves = [
        sum_up(patches[:, part], np.full((part.stop - part.start, 1), target, np.float32), 1)
        for part in (slice(0, 4999), slice(4999, samples))
    ]
    assert_same(gram, halves[0].merge(halves[1]))


def test_moments_are_means_and_covariances_in_real_units():
    patches, values = draw_samples()
    unit = choose_unit(values)
    targets = fix_targets(values, unit)
    moments = sum_up(patches, targets, 2).read(0.25, unit)
    for group in range(2):
        inputs, outputs = patches[group] * 0.25, (targets * unit).reshape(50, 2, 2)[:, group]
        both = np.cov(inputs.T, outputs.T, bias=True)
        np.testing.assert_allclose(moments.mean[group], inputs.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(moments.target[group], outputs.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(moments.covariance[group], both[:3, :3], rtol=1e-5)
        np.testing.assert_allclose(moments.variance[group], both.diagonal()[3:], rtol=1e-5)
        np.testing.assert_allclose(moments.crossed[group], both[3:, :3], rtol=1e-4)


def test_inputs_that_never_change_have_no_variance_at_all():
    patches = np.full((1, 999, 3), 253, np.float32)
    moments = sum_up(patches, np.zeros((999, 1), np.float32), 1).read(1.0, 1.0)
    assert np.abs(moments.covariance).max() == 0.0


def test_a_term_that_differs_once_leaves_a_covariance_without_negative_directions():
    rng = np.random.default_rng(0)
    patches = np.repeat(rng.integers(100, 256, (1, 1, 200)), 8000, axis=1).astype(np.float32)
    patches[0, 17, 3] += 1
    covariance = sum_up(patches, np.zeros((8000, 1), np.float32), 1).read(1.0, 1.0).covariance[0]
    expected = np.zeros((200, 200))
    expected[3, 3] = 1 / 8000 - 1 / 8000**2
    np.testing.assert_allclose(covariance, expected, atol=1e-10)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9


@pytest.mark.parametrize("largest", [1e-40, 1e-3, 1.0, 7.9, 3e38, 0.0])
def test_targets_keep_twenty_bits(largest):
    values = np.array([[largest, -largest / 3, 0.0]], np.float32)
    unit = choose_unit(values)
    fixed = fix_targets(values, unit)
    assert np.abs(fixed).max() <= 1 << 20
    np.testing.assert_array_equal(fixed, np.rint(fixed))
    assert np.log2(unit) == np.rint(np.log2(unit))
    assert np.abs(fixed.astype(np.float64) * unit - values).max() <= unit / 2
    assert unit <= max(largest, 1e-45) * 2.0**-19 or largest == 0.0


def test_the_error_is_the_mean_square_of_what_the_best_bias_leaves():
    patches, values = draw_samples()
    unit = choose_unit(values)
    targets = fix_targets(values, unit)
    weights = np.random.default_rng(1).normal(0, 1, (2, 2, 3))
    error = measure_error(weights, sum_up(patches, targets, 2).read(0.5, unit))
    for group in range(2):
        left = (targets * unit).reshape(50, 2, 2)[:, group] - patches[group] * 0.5 @ weights[group].T
        np.testing.assert_allclose(error[group], left.var(axis=0), rtol=1e-6)


def test_the_error_under_a_bias_that_stays_holds_the_mean_too():
    patches, values = draw_samples()
    unit = choose_unit(values)
    targets = fix_targets(values, unit)
    rng = np.random.default_rng(1)
    weights, bias = rng.normal(0, 1, (2, 2, 3)), rng.normal(0, 20, (2, 2))
    held = hold_bias(sum_up(patches, targets, 2).read(0.5, unit), bias)
    error = measure_error(weights, held)
    for group in range(2):
        left = (targets * unit).reshape(50, 2, 2)[:, group] - patches[group] * 0.5 @ weights[group].T - bias[group]
        np.testing.assert_allclose(error[group], np.square(left).mean(axis=0), rtol=1e-6)
