"""Derived values in words: numbers, decibels, shares, intervals, verdicts."""

from __future__ import annotations

import math
from typing import Any

from mbdeploy.estimate import Interval
from mbdeploy.results import Metrics

NOT_AVAILABLE = "n/a"
_VERDICTS = {True: "pass", False: "FAIL", None: "inconclusive"}


def name_number(value: float | None, digits: int = 3) -> str:
    """A number in text, to so many digits; "n/a" where there is none."""
    return NOT_AVAILABLE if value is None or math.isnan(value) else f"{value:.{digits}g}"


def name_decibels(value: float | None) -> str:
    """An SQNR in text: "equal" if it is infinite."""
    return "equal" if value == math.inf else name_number(value, 4)


def name_verdict(passed: bool | None) -> str:
    """How a gate ended, in text."""
    return _VERDICTS[passed]


def name_sqnr(metrics: Metrics | None) -> str:
    """The SQNR of an output in text; "n/a" where there is none."""
    return name_decibels(metrics.sqnr_db if metrics else None)


def name_share(metrics: Metrics | None) -> str:
    """The agreement of an output in text; "n/a" where there is none."""
    share = metrics.top1_agreement if metrics else None
    return NOT_AVAILABLE if share is None else f"{100 * share:.1f} %"


def name_ms(value_ns: float | None) -> str:
    """Nanoseconds as milliseconds, in text; "n/a" where there are none."""
    return NOT_AVAILABLE if value_ns is None else f"{value_ns / 1e6:.2f}"


def name_interval(interval: Interval) -> str:
    """An estimate with its interval, in text."""
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def name_percent(interval: Interval, sign: str = "") -> str:
    """A share with its interval, in percent."""
    value, low, high = (100 * bound for bound in (interval.value, interval.low, interval.high))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def name_list(value: Any) -> str:
    """A value, or the different ones among those of several cores."""
    return "/".join(dict.fromkeys(map(str, value))) if isinstance(value, (list, tuple)) else str(value)
