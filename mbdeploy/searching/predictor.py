"""Latency from what a network does: fitted on measured networks, layer by layer where a profile says, and tried on
networks that were left out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.costs.report import LayerCost
from mbdeploy.searching.features import (
    COARSE,
    FINE,
    describe_coarsely,
    describe_layer,
    describe_network,
    describe_rest,
    list_layers,
)
from mbdeploy.searching.nonnegative import solve_nonnegative
from mbdeploy.searching.report import Fit, LeftOut


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A network that was timed: ``latency_ns`` as a whole, ``layers_us`` by layer of a profile (None: no profile).

    ``profile_us`` is the whole run with the profiler on, which slows it.
    """

    name: str
    layers: tuple[LayerCost, ...]
    latency_ns: float
    layers_us: dict[str, float] | None = None
    profile_us: float = 0.0


class Predictor(msgspec.Struct, frozen=True, kw_only=True):
    """Nanoseconds for each of a network's features, which are ``FINE`` or ``COARSE`` ones."""

    is_float: bool
    coefficients: tuple[float, ...]

    def predict_ns(self, layers: Sequence[LayerCost]) -> float:
        """The time of a network with these layers."""
        own = list_layers(layers)
        describe = describe_network if len(self.coefficients) == len(FINE) else describe_coarsely
        return float(describe(own, is_float=self.is_float) @ np.array(self.coefficients))


def fit_predictor(measured: Sequence[Measured], *, is_float: bool) -> Predictor:
    """The coefficients, none below 0, that miss the times by the least share of each network's whole time, squared.

    Rules: 1. one row a layer, one for the rest of a network's time, and one for the whole. 2. Times of a profile are
    scaled so that they add up to what the network takes without the profiler. 3. Where a network has no profile only
    whole networks count, by a few coarse features.
    """
    rows: list[NDArray[np.float64]] = []
    wanted: list[float] = []
    fine = all(one.layers_us is not None for one in measured)
    for one in measured:
        layers = list_layers(one.layers)
        if not fine:  # 3.
            rows.append(describe_coarsely(layers, is_float=is_float) / one.latency_ns)
            wanted.append(1.0)
            continue
        scale = one.latency_ns / one.profile_us if one.profile_us else 0.0  # 2.
        left_ns = one.latency_ns
        for layer in layers:
            took_ns = scale * (one.layers_us or {}).get(layer.name, 0.0)
            if took_ns:
                rows.append(describe_layer(layer, is_float=is_float) / one.latency_ns)
                wanted.append(took_ns / one.latency_ns)
                left_ns -= took_ns
        rows.append(describe_rest(layers, is_float=is_float) / one.latency_ns)
        wanted.append(left_ns / one.latency_ns)
        rows.append(describe_network(layers, is_float=is_float) / one.latency_ns)
        wanted.append(1.0)
    found = solve_nonnegative(np.array(rows), np.array(wanted))
    return Predictor(is_float=is_float, coefficients=tuple(map(float, found)))


def cross_validate(measured: Sequence[Measured], recipe: str) -> Fit:
    """How far off each network is when the predictor is fitted on all the others; needs three networks or more.

    With fewer there are no errors, and nobody knows how good the predictor is.
    """
    is_float = recipe == "fp32"
    predictor = fit_predictor(measured, is_float=is_float)
    names = FINE if len(predictor.coefficients) == len(FINE) else COARSE
    tried = []
    for index, one in enumerate(measured if len(measured) > 2 else ()):
        others = [*measured[:index], *measured[index + 1 :]]
        tried.append(
            LeftOut(
                name=one.name,
                measured_ns=one.latency_ns,
                predicted_ns=fit_predictor(others, is_float=is_float).predict_ns(one.layers),
            )
        )
    errors = [abs(one.error) for one in tried]
    return Fit(
        recipe=recipe,
        basis="layers" if names is FINE else "whole networks",
        networks=len(measured),
        left_out=tuple(tried),
        median_error=statistics.median(errors) if errors else None,
        largest_error=max(errors, default=None),
        coefficients_ns={name: ns for name, ns in zip(names, predictor.coefficients, strict=True) if ns > 0},
    )
