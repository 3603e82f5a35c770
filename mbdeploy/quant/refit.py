"""Fit a layer's weights anew, so that from quantized inputs it gives what the float model gives from float ones.

Ridge regression towards the weights that the layer has. How far it may go from them is decided by cross-validation
between two halves of the images: a layer with few samples (the classifier has one an image) keeps its weights.
"""

from __future__ import annotations

import numpy as np

from mbdeploy.quant.gram import Moments, measure_error
from mbdeploy.quant.pairsafe import Floats

#: Ridges to choose from, as shares of the mean variance of the inputs.
RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)
#: Where no ridge helps, weights stay; rounding still needs a covariance that can be inverted.
STRONGEST = 1000.0


def add_ridge(covariance: Floats, ridge: float) -> Floats:
    """The covariance (groups, terms, terms) plus ``ridge`` times its mean diagonal; of a dead input, the identity."""
    terms = covariance.shape[-1]
    mean = np.trace(covariance, axis1=1, axis2=2) / terms
    added = np.where(mean > 0, mean * ridge, 1.0)
    raised: Floats = covariance + added[:, np.newaxis, np.newaxis] * np.eye(terms)
    return raised


def refit(weights: Floats, moments: Moments, ridge: float) -> Floats:
    """Weights (groups, rows, terms) that bring the layer nearest to the wanted outputs, and stay near ``weights``."""
    missing = moments.crossed - np.matmul(weights, moments.covariance)
    solved = np.linalg.solve(add_ridge(moments.covariance, ridge), missing.transpose(0, 2, 1))
    fitted: Floats = weights + solved.transpose(0, 2, 1)
    return fitted


def choose_ridge(weights: Floats, halves: tuple[Moments, ...]) -> float:
    """The ridge under which weights fitted to either half do best on the other; ``STRONGEST`` if all do harm.

    With fewer than two halves nothing can be judged, so that weights stay.
    """
    if len(halves) < 2:
        return STRONGEST
    first, second = halves
    errors = {STRONGEST: float(measure_error(weights, first).sum() + measure_error(weights, second).sum())}
    for ridge in RIDGES:
        fitted_first, fitted_second = (refit(weights, half, ridge) for half in halves)
        errors[ridge] = float(measure_error(fitted_first, second).sum() + measure_error(fitted_second, first).sum())
    return min(errors, key=lambda ridge: errors[ridge])
