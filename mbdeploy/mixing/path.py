"""The order in which layers go to float: what costs no time first, then the most accuracy for the time it takes."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from mbdeploy.mixing.report import Effect

#: Below this share of the whole time a difference is noise, and no ratio is formed with it.
_RESOLUTION = 0.002


def rank_faster(effects: Sequence[Effect], kept: Collection[str]) -> list[Effect]:
    """Moves beyond ``kept`` that save time for sure (the interval lies below 1), the one that saves most first."""
    faster = [effect for effect in _list_open(effects, kept) if effect.ratio.high < 1]
    return sorted(faster, key=lambda effect: effect.ratio.value)


def rank_helpful(effects: Sequence[Effect], kept: Collection[str], base_db: float) -> list[Effect]:
    """Moves beyond ``kept`` that take noise off the outputs, the most of it for the time it costs first.

    That is NetAdapt's ratio of accuracy to resource (Yang et al., arXiv:1804.03230). ``base_db`` is the SQNR with all
    in INT8.
    """
    helpful = [effect for effect in _list_open(effects, kept) if measure_gain(effect.spared_db, base_db) > 0]
    return sorted(helpful, key=lambda effect: -weigh(effect, effect.spared_db, base_db))


def weigh(effect: Effect, reached_db: float, base_db: float) -> float:
    """Noise power taken off, as a share of what there was, for each share of time that the move adds."""
    return measure_gain(reached_db, base_db) / max(effect.ratio.value - 1, _RESOLUTION)


def measure_gain(reached_db: float, base_db: float) -> float:
    """The share of the outputs' noise power that is gone: 0 none, 1 all, below 0 some was added or nobody knows."""
    gain = 1 - math.pow(10, (base_db - reached_db) / 10)
    return gain if math.isfinite(gain) else -1.0


def _list_open(effects: Sequence[Effect], kept: Collection[str]) -> list[Effect]:
    return [effect for effect in effects if not set(effect.move.layers) <= set(kept)]
