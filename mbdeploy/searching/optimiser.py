"""Optuna's sampler over variants: it proposes one that was not looked at yet, and hears what others were worth."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any

from mbdeploy.errors import UnavailableError
from mbdeploy.searching.space import Point

#: Proposals of variants that are known, before another one is drawn.
_MOST_REPEATS = 20


class Optimiser:
    """A tree-structured Parzen estimator over card, width and size, seeded, in memory.

    Raises:
        UnavailableError: no package ``optuna``.
    """

    def __init__(self, points: Sequence[Point], seed: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UnavailableError(
                expected="Optuna, which chooses what to try where not everything is",
                found="no such package",
                todo="run `pip install mbdeploy[search]`, or let --num-trials cover the whole space",
            ) from error
        self._optuna: Any = optuna
        self._random = random.Random(seed)
        self._axes = {name: sorted({place[name] for place in map(_place, points)}) for name in _place(points[0])}
        self._places = {
            point.variant.name: {name: self._axes[name].index(value) for name, value in _place(point).items()}
            for point in points
        }
        self._points = {tuple(self._places[point.variant.name].values()): point for point in points}
        kinds = optuna.distributions
        self._kinds = {
            name: kinds.CategoricalDistribution(range(len(values)))
            if name == "family"
            else kinds.IntDistribution(0, len(values) - 1)
            for name, values in self._axes.items()
        }
        self._values: dict[str, float] = {}
        self._given: set[str] = set()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
        )

    def tell(self, point: Point, reward: float) -> None:
        """Say what a variant is worth: one that was given, or another."""
        self._values[point.variant.name] = reward
        place = self._places[point.variant.name]
        self._study.add_trial(self._optuna.trial.create_trial(params=place, distributions=self._kinds, value=reward))

    def ask(self) -> Point | None:
        """A variant that was neither given nor told of yet; None when there are no more.

        Rules: 1. a proposal that is known is told again, so that the next one differs. 2. A place without a variant
        is worth nothing. 3. After many of these a variant is drawn.
        """
        known = self._given | set(self._values)
        left = [point for point in self._points.values() if point.variant.name not in known]
        if not left:
            return None
        for _ in range(_MOST_REPEATS):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # notes on parts of Optuna that it calls experimental
                trial = self._study.ask(self._kinds)
            found = self._points.get(tuple(trial.params[name] for name in self._axes))
            if found is not None and found.variant.name not in known:
                self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)  # its value comes by `tell`
                self._given.add(found.variant.name)
                return found
            worth = self._values.get(found.variant.name, 0.0) if found else 0.0  # 1. 2.
            self._study.tell(trial, worth)
        drawn = self._random.choice(left)  # 3.
        self._given.add(drawn.variant.name)
        return drawn


def _place(point: Point) -> dict[str, float]:
    return {"family": point.family, "alpha": point.alpha, "size": point.size}
