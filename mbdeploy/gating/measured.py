"""From an output folder's saved results to gates: parity by the card's budgets, time by its latency_ratio."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mbdeploy import artifact
from mbdeploy.card import ModelCard
from mbdeploy.gating.report import Gate
from mbdeploy.gating.rules import IDS, PLACEMENT
from mbdeploy.gating.versions import judge_latency
from mbdeploy.results import BenchRun, Check, ParityReport, split_subject
from mbdeploy.stages.facts import LatencyFacts, ParityFact, derive_latency, derive_parity
from mbdeploy.stages.parity import GATES

_TIMED = "int8"
#: Metric and first word of the variant -> the card's budget that bounds it.
_BUDGETS: dict[tuple[str, str], str] = {
    **{(metric, kind): budget for kind, rows in GATES.items() for metric, _, budget in rows},
    ("exact_gap_db", "int8"): "int8_exact_gap_db",
}


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a run left in its folder: the gates on parity, and the figures."""

    checks: tuple[Check, ...]
    parity: tuple[ParityFact, ...]
    latency: tuple[LatencyFacts, ...]


def read_measured(folder: Path) -> Measured:
    """What ``mbdeploy run`` saved in ``folder``.

    Raises:
        DataError: a result that is not there or cannot be read.
    """
    report = artifact.read_result(folder / "results/parity.json", ParityReport)
    runs = artifact.read_result(folder / "results/bench.json", list[BenchRun])
    return Measured(
        checks=report.checks, parity=derive_parity(report), latency=tuple(derive_latency(run) for run in runs)
    )


def collect_gates(card: ModelCard, measured: Measured, tolerance: float = 0.05) -> list[Gate]:
    """Every gate of the card: parity first, then time, where the card bounds it."""
    gates = []
    for check in measured.checks:
        variant, _, provider = split_subject(check)[0].partition(" on ")
        gates.append(
            Gate(
                card=card.name,
                variant=variant,
                provider=provider,
                rule=IDS.get(check.name, PLACEMENT),
                check=check,
                budget=_BUDGETS.get((check.name, variant), ""),
            )
        )
    return [*gates, *collect_time_gates(card, measured, tolerance)]


def collect_time_gates(card: ModelCard, measured: Measured, tolerance: float = 0.05) -> list[Gate]:
    """The gate on INT8 time over optimised FP32 of each provider; none where the card does not bound it."""
    budget = card.budgets.latency_ratio
    if budget is None:
        return []
    gates = []
    for fact in measured.latency:
        index = next(place for place, model in enumerate(fact.models) if model.model == _TIMED)
        gates += judge_latency(
            card.name, fact, index=index, budget=budget, tolerance=tolerance, name="latency_ratio", key="latency_ratio"
        )
    return gates
