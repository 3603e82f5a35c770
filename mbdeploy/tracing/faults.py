"""How far outputs are from what is expected, in numpy alone: for reductions, and word by word in their scripts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def measure_fault(metric: str, expected: NDArray[Any], found: NDArray[Any]) -> float:
    """``metric`` of outputs (n, ...) against what is expected; NaN, which holds no bound, if they cannot be compared.

    "sqnr_db" and "top1_agreement" are those of a gate, "max_abs" is the largest error, and "unlike" counts elements
    of which one only is a number. Two NaN in one place are equal.
    """
    if expected.shape != found.shape or expected.size == 0:
        return float("nan")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    if metric == "top1_agreement":
        return float(np.mean(a.argmax(axis=1) == b.argmax(axis=1)))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    numbers = np.isfinite(a) & np.isfinite(b)
    if metric == "unlike":
        return float(np.count_nonzero(~same & ~numbers))
    with np.errstate(all="ignore"):
        error = np.where(same, 0.0, a - b)
        if metric == "max_abs":
            return float(np.abs(error).max())
        signal, noise = np.square(np.where(same & ~numbers, 0.0, a)).sum(), np.square(error).sum()
        return float("inf") if noise == 0 else float(10 * np.log10(signal / noise))


def is_degenerate(expected: NDArray[Any], found: NDArray[Any]) -> bool:
    """Whether no gate may pass: values that are no numbers, one value throughout, or one answer to unlike images."""
    if expected.shape != found.shape or not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return True
    if expected.size > 1 and (expected.min() == expected.max() or found.min() == found.max()):
        return True
    return bool((expected != expected[:1]).any()) and not (found != found[:1]).any()


def holds_bound(metric: str, value: float, bound: float) -> bool:
    """Whether a metric holds its bound: a lowest one of SQNR and of agreement, else a highest one. NaN never does."""
    return value >= bound if metric in ("sqnr_db", "top1_agreement") else value <= bound
