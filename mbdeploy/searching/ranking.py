"""Before anything is measured in the end: which variants may meet the target, and which are worth measuring."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from mbdeploy.searching.report import Fit

#: What a predictor is taken to be off by at least, and where nobody knows, as shares.
LEAST_ERROR, UNKNOWN_ERROR = 0.2, 1.0


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A variant that was built: by recipe what each file is worth, and its time, ``measured`` or else predicted."""

    name: str
    rewards: dict[str, float]
    latency_ns: dict[str, float]
    measured: bool = False


def bound_error(fits: Iterable[Fit]) -> float:
    """What predictions may be off by, as a share: the largest error on networks that were left out."""
    errors = [UNKNOWN_ERROR if fit.largest_error is None else fit.largest_error for fit in fits]
    return max([LEAST_ERROR, *errors])


def may_meet(latency_ns: Mapping[str, float], target_ns: float, error: float) -> bool:
    """Whether the fastest file could take the target or less, if its prediction is too large by ``error``."""
    return min(latency_ns.values()) <= target_ns * (1 + error)


def choose_finals(candidates: Sequence[Candidate], count: int, target_ns: float, error: float) -> list[str]:
    """The names of at most ``count`` variants to measure, the most promising first.

    Rules: 1. those with a file that may meet the target come first, by the best reward of such files; then the others,
    the fastest first. 2. If none of several meets it for sure, with its predicted time longer by ``error``, the best of
    those that do takes the last place.
    """

    def weigh(candidate: Candidate, factor: float) -> tuple[bool, float]:
        factor = 1.0 if candidate.measured else factor
        able = [
            reward
            for recipe, reward in candidate.rewards.items()
            if candidate.latency_ns[recipe] * factor <= target_ns and not math.isnan(reward)
        ]
        return (True, max(able)) if able else (False, -min(candidate.latency_ns.values()))

    ranked = sorted(candidates, key=lambda one: weigh(one, 1 / (1 + error)), reverse=True)  # 1.
    finals, others = ranked[:count], ranked[count:]
    sure = [one for one in others if weigh(one, 1 + error)[0]]
    if len(finals) > 1 and sure and not any(weigh(one, 1 + error)[0] for one in finals):  # 2.
        finals[-1] = max(sure, key=lambda one: weigh(one, 1 + error))
    return [one.name for one in finals]
