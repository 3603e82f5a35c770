"""The best of the measured mixes: who is on the Pareto front, and which one meets the goals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from mbdeploy.mixing.report import Goals, Mix
from mbdeploy.pareto import is_beaten

#: Both exponents of MnasNet's soft constraint.
_EXPONENT = -0.07
#: More dB, and points, than there are to gain.
_UNKNOWN = 1000.0


def compute_reward(drop: float, ratio: float, target: float) -> float:
    """ACC (LAT / TAR)^w: ``drop`` in points of top-1, ``ratio`` and ``target`` as shares of one time."""
    return float((1 - drop / 100) * (ratio / target) ** _EXPONENT)


def rank_mixes(mixes: Sequence[Mix]) -> list[Mix]:
    """The mixes by their reward, the highest first; the more accurate first of equals, and NaN last."""
    return sorted(mixes, key=lambda mix: (math.isnan(mix.reward), -mix.reward, -mix.sqnr_db))


def mark_front(mixes: Sequence[Mix]) -> list[Mix]:
    """The mixes, each told whether no other is both faster and at least as accurate (or as fast and more accurate)."""

    costs = [(mix.ratio.value, -mix.sqnr_db) for mix in mixes]
    return [
        msgspec.structs.replace(mix, on_front=not is_beaten(own, costs)) for mix, own in zip(mixes, costs, strict=True)
    ]


def choose_mix(mixes: Sequence[Mix], goals: Goals) -> tuple[Mix | None, str]:
    """The mix to take, and why; None where none will do.

    Rules: 1. a mix is out if its SQNR is below ``min_sqnr``, its drop above ``max_drop``, or its time above
    ``target_ratio`` (the upper end of the interval: a time that may be above is no promise); NaN is out, always.
    2. One that is not shown to be faster than optimised FP32 is out, whatever the goals. 3. With a target
    for time the most accurate of the rest is taken. 4. Else the fastest; of those whose time cannot be told from its
    own (the intervals overlap) the one of the highest reward.
    """
    able = [mix for mix in mixes if not _list_misses(mix, goals)]
    if not able:
        if not mixes:
            return None, "nothing was measured"
        best = rank_mixes(mixes)[0]
        return (
            None,
            f"no mix reaches the goals; the best, {best.name}, misses {' and '.join(_list_misses(best, goals))}",
        )
    if goals.target_ratio is not None:
        taken = max(able, key=lambda mix: (mix.sqnr_db, mix.reward))
        return taken, f"the most accurate of {len(able)} of {len(mixes)} mixes that reach the goals"
    fastest = min(able, key=lambda mix: mix.ratio.value)
    even = [mix for mix in able if mix.ratio.low <= fastest.ratio.high]
    taken = min(even, key=lambda mix: (-mix.reward, mix.ratio.value))
    of = f"of {len(able)} of {len(mixes)} mixes that reach the goals"
    if len(even) == 1:
        return taken, f"the fastest {of}"
    return taken, f"{of} {len(even)} cannot be told apart in time from the fastest; it has the highest reward of these"


def choose_fastest(mixes: Sequence[Mix], goals: Goals) -> Mix | None:
    """The fastest of those accurate enough, whatever its time: what is to be timed in full before time refuses all."""
    able = [mix for mix in mixes if not _list_losses(mix, goals)]
    return min(able, key=lambda mix: mix.ratio.value, default=None)


def foresee(mixes: Sequence[Mix], made: Sequence[Mix]) -> list[Mix]:
    """The mixes not made in full yet, with what fitting brought to the last one that was.

    Before any is made nobody knows what fitting brings: then accuracy is taken to be no matter, but for the order.
    """
    plain = {mix.name: mix for mix in mixes}
    left = [mix for mix in mixes if mix.name not in {done.name for done in made}]
    if not made:
        return [_improve(mix, _UNKNOWN, _UNKNOWN) for mix in left]
    last = made[-1]
    before = plain[last.name]
    return [_improve(mix, last.sqnr_db - before.sqnr_db, before.drop.value - last.drop.value) for mix in left]


def _improve(mix: Mix, gained_db: float, gained_points: float) -> Mix:
    drop = mix.drop
    better = msgspec.structs.replace(drop, value=max(0.0, drop.value - gained_points), low=0.0)
    return msgspec.structs.replace(mix, sqnr_db=mix.sqnr_db + gained_db, drop=better)


def _list_misses(mix: Mix, goals: Goals) -> list[str]:
    misses = _list_losses(mix, goals)
    if goals.target_ratio is not None and not mix.ratio.high <= goals.target_ratio:
        misses.append(f"{goals.target_ratio:g} of FP32's time ({mix.ratio.value:.3f}, up to {mix.ratio.high:.3f})")
    if not mix.ratio.high < 1:
        misses.append(f"a gain over optimised FP32 ({mix.ratio.value:.3f}, up to {mix.ratio.high:.3f})")
    return misses


def _list_losses(mix: Mix, goals: Goals) -> list[str]:
    """The goals for accuracy that a mix misses."""
    misses = ["outputs that can be compared"] if math.isnan(mix.sqnr_db) else []
    if goals.min_sqnr is not None and not mix.sqnr_db >= goals.min_sqnr:
        misses.append(f"{goals.min_sqnr:g} dB ({mix.sqnr_db:.2f})")
    if goals.max_drop is not None and not mix.drop.value <= goals.max_drop:
        misses.append(f"a drop of {goals.max_drop:g} points ({mix.drop.value:.2f})")
    return misses
