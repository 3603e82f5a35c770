"""Streaming observers: what calibration keeps of each activation tensor. Memory is flat in the number of images.

Both kinds merge associatively and exactly (minima, maxima and integer counts), so the order of the images,
their batching and their sharding cannot change a result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

BINS = 8192
SAMPLES = 1 << 14
_HALF = BINS // 2
_SMALLEST_EXPONENT = -100


class RangeObserver:
    """Smallest and largest value of each tensor. Non-finite values make the range non-finite, and are kept so."""

    def __init__(self, tensors: Iterable[str]) -> None:
        self.low: dict[str, float] = dict.fromkeys(tensors, np.inf)
        self.high: dict[str, float] = dict.fromkeys(self.low, -np.inf)

    def update(self, tensor: str, low: float, high: float) -> None:
        """Take in the extremes of one batch."""
        self.low[tensor] = _smaller(self.low[tensor], low)
        self.high[tensor] = -_smaller(-self.high[tensor], -high)

    def merge(self, other: RangeObserver) -> None:
        """Take in what another observer of the same tensors has seen."""
        for tensor in other.low:
            self.update(tensor, other.low[tensor], other.high[tensor])


class HistogramObserver:
    """Counts of each tensor's values in ``BINS`` equal bins between -2^k and 2^k, in one pass.

    Rules: 1. when a value lies beyond, k grows and neighbouring bins are merged. Scaling by powers of two is
    exact, so the counts are those of the final k, whatever came first. 2. An image counts with at most about
    ``SAMPLES`` values of a tensor, taken at a fixed odd stride: enough for tails of 1 in 10,000, at a small part of
    the cost. 3. Zero falls into the bin that begins at zero.
    """

    def __init__(self, tensors: Iterable[str]) -> None:
        self.counts: dict[str, NDArray[np.int64]] = {name: np.zeros(BINS, np.int64) for name in tensors}
        self.exponents: dict[str, int] = dict.fromkeys(self.counts, _SMALLEST_EXPONENT)

    def update(self, tensor: str, values: NDArray[np.float32], largest: float) -> None:
        """Count one image's values; ``largest`` is their greatest magnitude, and finite."""
        if largest > 0:  # zeros alone say nothing of the range (and frexp(0) says 2^0)
            self._grow(tensor, math.frexp(largest)[1])
        flat = values.reshape(-1)
        stride = (flat.size // SAMPLES) | 1
        scaled = flat[::stride] * np.float32(_HALF * 2.0 ** -self.exponents[tensor])
        places = np.floor(scaled).astype(np.int64) + _HALF
        self.counts[tensor] += np.bincount(places, minlength=BINS)

    def merge(self, other: HistogramObserver) -> None:
        """Add the counts of another observer of the same tensors."""
        for tensor, counts in other.counts.items():
            self._grow(tensor, other.exponents[tensor])
            self.counts[tensor] += _merge_bins(counts, self.exponents[tensor] - other.exponents[tensor])

    def read(self, tensor: str, observed: tuple[float, float]) -> tuple[tuple[float, float], NDArray[np.int64]]:
        """The bins that cover ``observed``: the range of their outer edges, and their counts."""
        per_unit = _HALF * 2.0 ** -self.exponents[tensor]
        first, last = (math.floor(end * per_unit) for end in observed)
        edges = (first / per_unit, (last + 1) / per_unit)
        return edges, self.counts[tensor][first + _HALF : last + _HALF + 1]

    def _grow(self, tensor: str, exponent: int) -> None:
        steps = exponent - self.exponents[tensor]
        if steps > 0:
            self.counts[tensor] = _merge_bins(self.counts[tensor], steps)
            self.exponents[tensor] = exponent


def _merge_bins(counts: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
    """The same counts over a range that is 2^steps as wide: groups of bins become one, on either side of zero."""
    group = min(1 << min(steps, 62), _HALF)
    kept = _HALF // group
    merged = np.zeros(BINS, np.int64)
    merged[_HALF : _HALF + kept] = counts[_HALF:].reshape(kept, group).sum(axis=1)
    merged[_HALF - kept : _HALF] = counts[:_HALF].reshape(kept, group).sum(axis=1)
    return merged


def _smaller(first: float, second: float) -> float:
    """The smaller number, and NaN if either is NaN (``min`` would drop it, depending on the order)."""
    return float(np.minimum(first, second))
