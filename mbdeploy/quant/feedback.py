"""Round weights one after the other, and let those still to come make up for the error so far.

Source: Frantar et al., "GPTQ" (arXiv:2210.17323), the closed form of Optimal Brain Quantization
(arXiv:2208.11580): with H the covariance of the inputs and U the upper Cholesky factor of its inverse,
an error e in weight i is best made up for by -e * U[i, i+1:] / U[i, i] in the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbdeploy.quant.pairsafe import INT8_MAX, LARGEST_SUM, Floats

_BLOCK = 64


class Rounded(NamedTuple):
    """Integers (groups, rows, terms) at scales (groups, rows), and the mean square error of the output in each row."""

    integers: NDArray[np.int32]
    scales: Floats
    error: Floats


def round_with_feedback(weights: Floats, covariance: Floats, scales: Floats, partners: NDArray[np.intp]) -> Rounded:
    """Round ``weights`` (groups, rows, terms) at ``scales`` (groups, rows) so that their errors cancel out.

    ``covariance`` (groups, terms, terms) must be positive definite. ``partners`` (n, terms) names for each term the
    terms it shares an int16 sum with (or itself, if none): no pair leaves the safe range.
    """
    terms = weights.shape[-1]
    factor = _factor_inverse(covariance)
    remaining = weights.copy()
    integers = np.zeros(weights.shape, np.float64)
    error = np.zeros(scales.shape)
    for start in range(0, terms, _BLOCK):
        stop = min(start + _BLOCK, terms)
        steps = np.zeros((*scales.shape, stop - start))
        for term in range(start, stop):
            low, high = _find_bounds(integers, partners, term)
            wanted = remaining[..., term]
            integers[..., term] = chosen = np.clip(np.rint(wanted / scales), low, high)
            step = (wanted - chosen * scales) / factor[:, term, term, np.newaxis]
            remaining[..., term + 1 : stop] -= step[..., np.newaxis] * factor[:, np.newaxis, term, term + 1 : stop]
            steps[..., term - start] = step
        error += np.square(steps).sum(axis=-1)
        remaining[..., stop:] -= np.matmul(steps, factor[:, start:stop, stop:])
    return Rounded(integers.astype(np.int32), scales, error)


def _find_bounds(integers: Floats, partners: NDArray[np.intp], term: int) -> tuple[Floats, Floats]:
    """What a term may be, given the partners that were rounded before it."""
    low = np.full(integers.shape[:-1], -INT8_MAX)
    high = -low
    for partner in {int(other) for other in partners[:, term] if other < term}:
        value = integers[..., partner]
        high = np.minimum(high, LARGEST_SUM - np.maximum(value, 0))
        low = np.maximum(low, -LARGEST_SUM - np.minimum(value, 0))
    return low, high


def _factor_inverse(covariance: Floats) -> Floats:
    """The upper triangular U with inverse(covariance) = transpose(U) U."""
    inverse = np.linalg.inv(covariance)
    inverse = (inverse + inverse.transpose(0, 2, 1)) / 2
    factor: Floats = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    return factor
