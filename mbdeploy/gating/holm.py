"""Many gates at once: p-values of paired measurements, and Holm's correction over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import msgspec

from mbdeploy.estimate import Interval
from mbdeploy.gating.report import Gate

#: How often a check whose models are all fine may fail by chance: once in twenty.
ALPHA = 0.05


def compute_p_value(ratio: Interval, bound: float) -> float:
    """How likely a ratio so far above ``bound`` is if the true one is not above it, from the interval around it.

    One-sided, on a log scale (Altman & Bland 2011, BMJ 343:d2304). 1 where there is no such interval; an interval
    without width decides alone.
    """
    usable = all(math.isfinite(value) and value > 0 for value in (ratio.value, ratio.low, ratio.high, bound))
    if not usable:
        return 1.0
    spread = math.log(ratio.high / ratio.low) / (2 * NormalDist().inv_cdf(0.5 + ratio.confidence / 2))
    distance = math.log(ratio.value / bound)
    if spread == 0:
        return 0.0 if distance > 0 else 1.0
    return 1 - NormalDist().cdf(distance / spread)


def say_p_values(gate: Gate) -> str:
    """Both p-values of a statistical gate; "" for another."""
    if gate.p_value is None or gate.adjusted is None:
        return ""
    said = ["< 0.0001" if value < 1e-4 else f"= {value:.2g}" for value in (gate.p_value, gate.adjusted)]
    return f"p {said[0]}, after Holm's correction {said[1]}"


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979), in the order given: the k-th smallest of m times m - k + 1, and never
    less than the one before it."""
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def correct_gates(gates: Sequence[Gate]) -> list[Gate]:
    """The gates with adjusted p-values; one that failed, and that so many gates can make fail by chance, becomes
    inconclusive. No gate is made to fail."""
    places = [index for index, gate in enumerate(gates) if gate.p_value is not None]
    adjusted = adjust_p_values([gates[index].p_value or 0.0 for index in places])
    corrected = list(gates)
    for index, value in zip(places, adjusted, strict=True):
        corrected[index] = _settle(gates[index], value, len(places))
    return corrected


def _settle(gate: Gate, adjusted: float, total: int) -> Gate:
    check = gate.check
    if check.passed is False and adjusted > ALPHA:
        note = f"it may fail by chance: {total} gates were judged at once"
        check = msgspec.structs.replace(check, passed=None, note="; ".join(filter(None, (check.note, note))))
    return msgspec.structs.replace(gate, check=check, adjusted=adjusted)
