"""Refitting: true weights are found where the data hold them, and left alone where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from mbdeploy.quant.gram import Gram, Moments, choose_unit, fix_targets, measure_error
from mbdeploy.quant.refit import RIDGES, STRONGEST, add_ridge, choose_ridge, refit


def observe(patches: np.ndarray, outputs: np.ndarray) -> Moments:
    """Moments of integer inputs (groups, samples, terms) and outputs (samples, groups * rows)."""
    unit = choose_unit(outputs.astype(np.float32))
    targets = fix_targets(outputs.astype(np.float32), unit)
    gram = Gram(len(patches), patches.shape[-1], targets.shape[1] // len(patches))
    gram.update(patches.astype(np.float32), targets)
    return gram.read(1.0, unit)


def draw_inputs(rng: np.random.Generator, samples: int, terms: int) -> np.ndarray:
    mixed = rng.normal(0, 1, (samples, terms)) @ rng.normal(0, 1, (terms, terms))
    return np.clip(np.rint(mixed / mixed.std() * 60), -255, 255)[np.newaxis]


def test_the_true_weights_are_found_where_targets_come_from_them() -> None:
    rng = np.random.default_rng(0)
    inputs, true = draw_inputs(rng, 4000, 6), rng.normal(0, 1, (1, 3, 6))
    moments = observe(inputs, inputs[0] @ true[0].T + 11.0)
    wrong = true + rng.normal(0, 0.2, true.shape)
    fitted = refit(wrong, moments, 1e-6)
    np.testing.assert_allclose(fitted, true, atol=1e-3)
    assert measure_error(fitted, moments).sum() < 1e-6 * measure_error(wrong, moments).sum()


def test_cross_validation_lets_wrong_weights_go_far() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1, (1, 3, 6))
    draws = [draw_inputs(np.random.default_rng(5), 4000, 6)[:, part] for part in (slice(0, 2000), slice(2000, 4000))]
    halves = tuple(observe(inputs, inputs[0] @ true[0].T) for inputs in draws)
    assert choose_ridge(true + rng.normal(0, 0.2, true.shape), halves) == min(RIDGES)


def test_a_stronger_ridge_stays_nearer_to_the_weights() -> None:
    rng = np.random.default_rng(1)
    inputs, true = draw_inputs(rng, 500, 5), rng.normal(0, 1, (1, 2, 5))
    moments, start = observe(inputs, inputs[0] @ true[0].T), np.zeros((1, 2, 5))
    ways = [float(np.square(refit(start, moments, ridge) - start).sum()) for ridge in (*RIDGES, STRONGEST)]
    assert ways == sorted(ways, reverse=True)
    assert ways[-1] < 1e-4 * ways[0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.01, 1.0, 30.0])
def test_one_sample_an_image_and_more_terms_than_samples_never_make_other_images_worse(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    terms, rows = 96, 10
    weights = rng.normal(0, 1, (1, rows, terms))
    mix = rng.normal(0, 1, (terms, terms))

    def draw(samples: int) -> Moments:
        inputs = rng.normal(0, 1, (samples, terms)) @ mix
        inputs = np.clip(np.rint(inputs * 6), -255, 255)[np.newaxis]
        return observe(inputs, inputs[0] @ weights[0].T + rng.normal(0, noise, (samples, rows)))

    halves, held_out = (draw(24), draw(24)), draw(2000)
    ridge = choose_ridge(weights, halves)
    fitted = refit(weights, draw(48), ridge) if ridge < STRONGEST else weights
    assert measure_error(fitted, held_out).sum() <= 1.005 * measure_error(weights, held_out).sum()


def test_with_one_half_only_or_none_weights_stay() -> None:
    rng = np.random.default_rng(0)
    inputs = draw_inputs(rng, 100, 4)
    moments = observe(inputs, inputs[0, :, :2])
    assert choose_ridge(np.zeros((1, 2, 4)), (moments,)) == STRONGEST
    assert choose_ridge(np.zeros((1, 2, 4)), ()) == STRONGEST


def test_a_dead_input_gets_the_identity_and_weights_on_it_stay() -> None:
    dead = observe(np.zeros((2, 10, 3)), np.zeros((10, 4)))
    np.testing.assert_array_equal(add_ridge(dead.covariance, 0.01), np.stack([np.eye(3)] * 2))
    weights = np.random.default_rng(0).normal(0, 1, (2, 2, 3))
    np.testing.assert_array_equal(refit(weights, dead, 0.01), weights)


def test_a_ridge_is_a_share_of_each_groups_own_mean_variance() -> None:
    covariance = np.stack([np.diag([1.0, 3.0]), np.diag([10.0, 30.0])])
    raised = add_ridge(covariance, 0.1)
    np.testing.assert_allclose(raised[0], np.diag([1.2, 3.2]))
    np.testing.assert_allclose(raised[1], np.diag([12.0, 32.0]))
