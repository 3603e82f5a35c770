"""Second moments of a layer's quantized inputs, and of the outputs that the float model has at the same places."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.quant.pairsafe import Floats

_EXACT_ROWS = 256  # of products of 8-bit values, so that their float32 sum is exact: 256 * 255^2 < 2^24
_TARGET_BITS = 20


class Moments(msgspec.Struct, frozen=True, kw_only=True):
    """Centred moments of a layer with g groups of k terms and r outputs each, in real units.

    ``mean`` (g, k) and ``covariance`` (g, k, k) are of the inputs, ``target`` (g, r) and ``variance`` (g, r) of the
    wanted outputs, ``crossed`` (g, r, k) is the covariance of outputs with inputs.
    """

    mean: Floats
    covariance: Floats
    target: Floats
    variance: Floats
    crossed: Floats


class Gram:
    """Sums over samples. They are exact, so that neither the order of the images nor their sharding can matter.

    Inputs are integers (8-bit values without their zero point) and so are the outputs, as ``fix_targets`` makes
    them; no sum of products comes near 2^53, but one of squared outputs does: it is kept in int64.
    """

    def __init__(self, groups: int, terms: int, outputs: int) -> None:
        self.count = 0
        self.inputs: Floats = np.zeros((groups, terms))
        self.products: Floats = np.zeros((groups, terms, terms))
        self.outputs: Floats = np.zeros((groups, outputs))
        self.squares: NDArray[np.int64] = np.zeros((groups, outputs), np.int64)
        self.crossed: Floats = np.zeros((groups, outputs, terms))

    def update(self, patches: NDArray[np.float32], targets: NDArray[np.float32]) -> None:
        """Take in samples: ``patches`` (groups, samples, terms), ``targets`` (samples, groups * outputs)."""
        groups, samples, _ = patches.shape
        wanted = targets.reshape(samples, groups, -1).transpose(1, 2, 0).astype(np.float64)
        self.count += samples
        for start in range(0, samples, _EXACT_ROWS):
            part = patches[:, start : start + _EXACT_ROWS]
            self.products += np.matmul(part.transpose(0, 2, 1), part)
        self.inputs += patches.sum(axis=1, dtype=np.float64)
        self.outputs += wanted.sum(axis=2)
        self.squares += np.square(wanted.astype(np.int64)).sum(axis=2)
        self.crossed += np.matmul(wanted, patches.astype(np.float64))

    def merge(self, other: Gram) -> Gram:
        """The sums over the samples of both."""
        groups, rows, terms = self.crossed.shape
        merged = Gram(groups, terms, rows)
        merged.count = self.count + other.count
        for name in ("inputs", "products", "outputs", "squares", "crossed"):
            setattr(merged, name, getattr(self, name) + getattr(other, name))
        return merged

    def read(self, input_scale: float, target_scale: float) -> Moments:
        """The moments of at least one sample; the scales turn the integers into real units."""
        mean, target = self.inputs / self.count, self.outputs / self.count
        return Moments(
            mean=mean * input_scale,
            covariance=(self.products / self.count - mean[:, :, np.newaxis] * mean[:, np.newaxis]) * input_scale**2,
            target=target * target_scale,
            variance=(self.squares / self.count - np.square(target)) * target_scale**2,
            crossed=(self.crossed / self.count - target[:, :, np.newaxis] * mean[:, np.newaxis])
            * (input_scale * target_scale),
        )


def choose_unit(values: NDArray[np.float32]) -> float:
    """The power of two of which the largest of ``values`` is 20 bits; nothing is copied, so they may lie in a file."""
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    return float(2.0 ** (int(np.frexp(largest)[1]) - _TARGET_BITS))


def fix_targets(values: NDArray[np.float32], unit: float) -> NDArray[np.float32]:
    """Outputs as integers of 20 bits (in float32, which holds them), in units of ``unit``."""
    fixed: NDArray[np.float32] = np.rint(values / np.float64(unit)).astype(np.float32)
    return fixed


def hold_bias(moments: Moments, bias: Floats) -> Moments:
    """The moments about a bias (g, r) that cannot move, so that the mean error counts as any other."""
    target = moments.target - bias
    return msgspec.structs.replace(
        moments,
        covariance=moments.covariance + moments.mean[:, :, np.newaxis] * moments.mean[:, np.newaxis],
        variance=moments.variance + np.square(target),
        crossed=moments.crossed + target[:, :, np.newaxis] * moments.mean[:, np.newaxis],
    )


def measure_error(weights: Floats, moments: Moments) -> Floats:
    """The mean square, (g, r), by which a layer with ``weights`` (g, r, k) and the best bias misses its outputs."""
    cross = 2 * (weights * moments.crossed).sum(axis=-1)
    own = (np.matmul(weights, moments.covariance) * weights).sum(axis=-1)
    return np.asarray(np.maximum(moments.variance - cross + own, 0.0))
