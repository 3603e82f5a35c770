"""A latency to reach: read from the user's word, turned into a reward, and judged from a measured interval."""

from __future__ import annotations

import math
import re
from typing import Literal

from mbdeploy.errors import UsageError
from mbdeploy.estimate import Interval

Verdict = Literal["met", "missed", "inconclusive"]

#: MnasNet's soft constraint: both of its exponents.
EXPONENT = -0.07
#: MnasNet's hard constraint: the exponent above the target; below it there is none.
_HARD = -1.0
_UNITS_NS = {"ns": 1, "us": 1e3, "µs": 1e3, "μs": 1e3, "ms": 1e6, "s": 1e9}
_LATENCY = re.compile(rf"\s*(\d+(?:\.\d+)?|\.\d+)\s*({'|'.join(_UNITS_NS)})\s*", re.ASCII)
_MOST_NS = 3600e9


def parse_latency(word: str) -> float:
    """The nanoseconds that "8ms", "800us" or "0.008s" are.

    Raises:
        UsageError: no number with a unit, or one that is not above 0 and at most an hour.
    """
    match = _LATENCY.fullmatch(word)
    found_ns = float(match[1]) * _UNITS_NS[match[2]] if match else math.nan
    if not 0 < found_ns <= _MOST_NS:
        raise UsageError(
            where="--target-latency",
            expected="a time above 0 with its unit, such as 8ms, 800us or 0.008s",
            found=repr(word),
            todo="give one",
        )
    return found_ns


def compute_reward(
    quality: float, latency_ns: float, target_ns: float, exponent: float, *, hard: bool = False
) -> float:
    """MnasNet's ACC (LAT / TAR)^w (Tan et al., arXiv:1807.11626, eq. 2); NaN where a part of it is none.

    Soft: w is ``exponent`` on both sides of the target. Hard: w is 0 below the target and -1 above it.
    """
    if not (latency_ns > 0 and target_ns > 0):
        return math.nan
    share = latency_ns / target_ns
    power = (0.0 if share <= 1 else _HARD) if hard else exponent
    return float(quality * share**power)


def judge_latency(latency: Interval, target_ns: float) -> Verdict:
    """Whether the target is met: by all of the interval, by none of it, or nobody can tell (NaN: nobody can)."""
    if latency.high <= target_ns:
        return "met"
    return "missed" if latency.low > target_ns else "inconclusive"
