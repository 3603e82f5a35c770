"""A run of the pipeline as tables, for ``run``."""

from __future__ import annotations

from pathlib import Path

from mbdeploy.pipeline import RunSummary, StageRun
from mbdeploy.stages.figures import tabulate_checks
from mbdeploy.stages.tables import Table


def tabulate_run(summary: RunSummary, *, planned: bool = False) -> list[Table]:
    """Which stages ran and which were fresh, then every gate; ``planned`` says that nothing was done yet."""
    rows = tuple((stage.name, Path(stage.output).name, _name_end(stage, planned)) for stage in summary.stages)
    note = f"`mbdeploy report {summary.folder}` shows what was measured."
    title = f"{summary.card} in {summary.folder}"
    stages = Table(
        title=title, columns=("stage", "output", "would" if planned else "took"), rows=rows, notes=(note,), left=(0, 1)
    )
    return [stages, *tabulate_checks(summary.checks)]


def _name_end(stage: StageRun, planned: bool) -> str:
    if stage.fresh:
        return "fresh"
    return "run" if planned else f"{stage.seconds:.1f} s"
