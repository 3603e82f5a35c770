"""What ``inspect`` and ``audit`` find in an INT8 file, as one list of findings."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mbdeploy.auditing.report import Finding, Spot
from mbdeploy.gating.report import Lint, Place
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.stages.audit import audit
from mbdeploy.stages.inspect import inspect


def lint_model(
    model: Path, *, ignore: Collection[str] = (), on_progress: Progress = ignore_progress
) -> tuple[Lint, ...]:
    """Everything that the rules of both find, but for the ids in ``ignore``; costs are notes, nothing fails by them.

    Raises:
        StepError, ModelError: a file that cannot be looked at.
    """
    from mbdeploy.costs.rules import RULES as COST_RULES

    costs = inspect(model, ignore=[name for name in ignore if name in COST_RULES], on_progress=on_progress)
    audited = audit(model, on_progress=on_progress)
    found = [
        Lint(
            rule=finding.rule,
            level="note",
            title=finding.title,
            summary=finding.summary,
            change=finding.change,
            places=tuple(Place(node=item.node, text=item.text) for item in finding.evidence),
        )
        for finding in costs.findings
    ]
    found += [
        Lint(
            rule=finding.rule,
            level=finding.severity,
            title=finding.title,
            summary=finding.summary,
            change=finding.change,
            places=tuple(Place(node=spot.node, text=spot.text) for spot in _list_spots(finding)),
        )
        for finding in audited.examined.findings
        if finding.rule not in ignore
    ]
    return tuple(found)


def _list_spots(finding: Finding) -> list[Spot]:
    """The places in an order that is the same each time: those that are ordered by time, by name."""
    if finding.time_share is None:
        return list(finding.spots)
    return sorted(finding.spots, key=lambda spot: spot.node)
