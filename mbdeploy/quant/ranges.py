"""From what was observed to the range a tensor is quantized over, and from a range to scale and zero point.

Sources: percentile and entropy after Migacz, "8-bit inference with TensorRT" (GTC 2017); mse as in Nagel et
al., "A White Paper on Neural Network Quantization" (arXiv:2106.08295), section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]
Counts = NDArray[np.int64]

#: Coverage of ``percentile``: 99.9 would cut the six of ReLU6, which a tenth of a per cent of values reaches.
PERCENTILE = 99.99
#: A tensor that never leaves this range is dead; any scale represents it.
_DEAD = 1e-12
_DEAD_RANGE = (0.0, 1.0)
_SHRINK_STEPS = np.linspace(1.0, 0.3, 71)
#: The divergence takes four times as long as the squared error.
_ENTROPY_STRIDE = 5
_LEVELS = 256


class ActivationScale(msgspec.Struct, frozen=True, kw_only=True):
    """Scale (above 0, finite, float32) and zero point of an activation tensor, with the range they came from."""

    scale: float
    zero_point: int
    low: float
    high: float


def choose_scale(observed: Range, *, signed: bool) -> ActivationScale:
    """Quantize a range to 8 bits: asymmetric uint8, or symmetric int8 if ``signed``.

    Rules: 1. the range is widened to hold 0, so that zero padding is exact. 2. A dead tensor gets the
    range 0..1. 3. The zero point is rounded into the type's range.
    """
    low, high = min(observed[0], 0.0), max(observed[1], 0.0)
    if high - low < _DEAD:
        low, high = _DEAD_RANGE
    if signed:
        high = max(-low, high)
        return ActivationScale(scale=float(np.float32(high / 127)), zero_point=0, low=-high, high=high)
    scale = np.float32((high - low) / 255)
    zero_point = int(np.clip(np.rint(-low / float(scale)), 0, 255))
    return ActivationScale(scale=float(scale), zero_point=zero_point, low=low, high=high)


def choose_range(method: str, observed: Range, edges: Range, counts: Counts) -> Range:
    """The range to quantize over, by one of ``METHODS``, never wider than ``observed``.

    ``counts`` is the histogram of the tensor between ``edges``, which enclose what was observed.
    """
    if observed[1] - observed[0] < _DEAD:
        return observed
    low, high = METHODS[method](edges, counts)
    return max(low, observed[0]), min(high, observed[1])


def choose_percentile(observed: Range, counts: Counts) -> Range:
    """Leave out (100 - PERCENTILE) % of the values, half of it at each end; a one-sided tensor keeps its zero."""
    edges = np.linspace(*observed, len(counts) + 1)
    tail = counts.sum() * (1 - PERCENTILE / 100) / 2
    above = np.cumsum(counts[::-1])[::-1]
    below = np.cumsum(counts)
    high = edges[1:][above > tail][-1] if (above > tail).any() else observed[1]
    low = edges[:-1][below > tail][0] if (below > tail).any() else observed[0]
    return _keep_zero(observed, float(low), float(high))


def choose_mse(observed: Range, counts: Counts) -> Range:
    """Shrink either end as long as the expected squared rounding and clipping error falls."""
    return _search(observed, counts, _squared_error)


def choose_entropy(observed: Range, counts: Counts) -> Range:
    """Shrink either end as long as the divergence of the quantized histogram from the real one falls.

    Zeros are left out of the histogram: zero has a level of its own in every range, and after a ReLU its
    spike would otherwise outweigh all else and ask for ever finer levels.
    """
    others = counts.copy()
    if observed[0] <= 0 <= observed[1]:
        place = int(-observed[0] / (observed[1] - observed[0]) * len(counts) + 1e-6)
        others[min(place, len(counts) - 1)] = 0
    return _search(observed, others, _divergence, stride=_ENTROPY_STRIDE)


METHODS: dict[str, Callable[[Range, Counts], Range]] = {
    "percentile": choose_percentile,
    "entropy": choose_entropy,
    "mse": choose_mse,
}


def _search(
    observed: Range, counts: Counts, cost: Callable[[NDArray[np.float64], Counts, Range], float], *, stride: int = 1
) -> Range:
    """Best upper end over ``_SHRINK_STEPS``, then best lower end; the widest range wins a tie.

    With a ``stride`` only every so many steps are tried, and then those between the best one's neighbours.
    """
    edges = np.linspace(*observed, len(counts) + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    low, high = min(observed[0], 0.0), max(observed[1], 0.0)
    if high > 0:
        high *= _find_best(lambda step: cost(centres, counts, (low, high * step)), stride)
    if low < 0:
        low *= _find_best(lambda step: cost(centres, counts, (low * step, high)), stride)
    return _keep_zero(observed, low, high)


def _find_best(cost: Callable[[float], float], stride: int) -> float:
    steps = range(0, len(_SHRINK_STEPS), stride)
    costs = {step: cost(_SHRINK_STEPS[step]) for step in steps}
    centre = min(costs, key=costs.__getitem__)
    for step in range(max(0, centre - stride + 1), min(len(_SHRINK_STEPS), centre + stride)):
        if step not in costs:
            costs[step] = cost(_SHRINK_STEPS[step])
    return float(_SHRINK_STEPS[min(costs, key=lambda step: (costs[step], step))])


def _squared_error(centres: NDArray[np.float64], counts: Counts, bounds: Range) -> float:
    step = (bounds[1] - bounds[0]) / (_LEVELS - 1)
    snapped = np.clip(np.rint((centres - bounds[0]) / step), 0, _LEVELS - 1) * step + bounds[0]
    return float(np.dot(counts, (centres - snapped) ** 2))


def _divergence(centres: NDArray[np.float64], counts: Counts, bounds: Range) -> float:
    """KL(P || Q): P is the histogram with its tails moved to the ends, Q the same mass spread evenly in each level."""
    step = (bounds[1] - bounds[0]) / (_LEVELS - 1)
    first, last = np.searchsorted(centres, [bounds[0] - step / 2, bounds[1] + step / 2], side="left")
    if first == last:
        return np.inf
    unclipped = counts[first:last].astype(np.float64)
    clipped = unclipped.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    level = np.clip(np.rint((centres[first:last] - bounds[0]) / step), 0, _LEVELS - 1).astype(np.intp)
    occupied = unclipped > 0
    mass = np.bincount(level, unclipped, _LEVELS)
    width = np.bincount(level, occupied, _LEVELS)
    spread = (mass / np.maximum(width, 1))[level] * occupied
    known = (clipped > 0) & (spread > 0)
    lost = clipped[(clipped > 0) & (spread <= 0)].sum()
    total_p, total_q = clipped.sum(), spread.sum()
    if total_q <= 0:
        return np.inf
    p, q = clipped[known] / total_p, spread[known] / total_q
    penalty = float(lost / total_p) * 50.0  # mass that Q gives no probability: worse than any finite ratio
    return float(np.sum(p * np.log(p / q))) + penalty


def _keep_zero(observed: Range, low: float, high: float) -> Range:
    """A range cut from ``observed`` that is never empty and holds zero wherever the observed one does."""
    if observed[0] <= 0 <= observed[1]:
        low, high = min(low, 0.0), max(high, 0.0)
    return (float(low), float(high)) if high > low else observed
