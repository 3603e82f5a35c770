"""A run of the pipeline as tables, for ``run``."""

from __future__ import annotations

from pathlib import Path

from mbdeploy.pipeline import RunSummary
from mbdeploy.stages.figures import tabulate_checks
from mbdeploy.stages.tables import Table


def tabulate_run(summary: RunSummary) -> list[Table]:
    """Which stages ran and which were fresh, then every gate."""
    rows = tuple(
        (stage.name, Path(stage.output).name, "fresh" if stage.fresh else f"{stage.seconds:.1f} s")
        for stage in summary.stages
    )
    note = f"`mbdeploy report {summary.folder}` shows what was measured."
    title = f"{summary.card} in {summary.folder}"
    stages = Table(title=title, columns=("stage", "output", "took"), rows=rows, notes=(note,), left=(0, 1))
    return [stages, *tabulate_checks(summary.checks)]
