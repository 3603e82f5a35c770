"""The Pareto front: what no other beats in every cost at once."""

from __future__ import annotations

import math
from collections.abc import Sequence


def is_beaten(own: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
    """Whether one of ``others`` costs no more than ``own`` in anything, and less in something.

    Rules: 1. the less of each number, the better. 2. Equals do not beat each other, so ``own`` may be among
    ``others``. 3. What has NaN beats nothing, and counts as beaten: a cost that nobody knows is on no front.
    """
    if any(map(math.isnan, own)):
        return True  # 3.
    return any(tuple(other) != tuple(own) and all(a <= b for a, b in zip(other, own, strict=True)) for other in others)
