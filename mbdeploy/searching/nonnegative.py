"""Least squares with coefficients of zero or more: no layer takes less time because it does more work."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TINY = 1e-10


def solve_nonnegative(rows: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """The x >= 0 (k) with the least |rows x - wanted|², for ``rows`` (n, k) and ``wanted`` (n).

    The active-set method of Lawson & Hanson, "Solving Least Squares Problems", chapter 23. Columns are brought to
    one length first, so that units do not matter; a column of zeros gets 0.
    """
    lengths = np.linalg.norm(rows, axis=0)
    matrix = rows / np.where(lengths > 0, lengths, 1.0)
    count = matrix.shape[1]
    found, free = np.zeros(count), np.zeros(count, dtype=bool)
    enough = _TINY * max(1.0, float(np.abs(matrix.T @ wanted).max(initial=0.0)))
    for _ in range(3 * count):
        slope = np.where(free, -np.inf, matrix.T @ (wanted - matrix @ found))
        best = int(slope.argmax()) if count else 0
        if not count or slope[best] <= enough:
            break
        free[best] = True
        while True:
            trial = np.zeros(count)
            trial[free] = np.linalg.lstsq(matrix[:, free], wanted, rcond=None)[0]
            below = free & (trial <= _TINY)
            if not below.any():
                break
            steps = found[below] / np.maximum(found[below] - trial[below], _TINY)
            found = found + steps.min() * (trial - found)
            free &= found > _TINY
            found[~free] = 0.0
            if not free.any():
                trial = found
                break
        found = trial
    return found / np.where(lengths > 0, lengths, 1.0)
