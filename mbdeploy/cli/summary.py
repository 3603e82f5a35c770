"""A run of the pipeline, a bundle, and the check of a folder, as tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mbdeploy.pipeline import RunSummary, StageRun
from mbdeploy.provenance.checking import ArtifactReport
from mbdeploy.stages.figures import tabulate_checks
from mbdeploy.stages.tables import Table

if TYPE_CHECKING:
    from mbdeploy.stages.bundle import Bundle


def tabulate_run(summary: RunSummary, *, planned: bool = False) -> list[Table]:
    """Which stages ran and which were fresh, then every gate; ``planned`` says that nothing was done yet."""
    rows = tuple((stage.name, Path(stage.output).name, _name_end(stage, planned)) for stage in summary.stages)
    note = f"`mbdeploy report {summary.folder}` shows what was measured."
    title = f"{summary.card} in {summary.folder}"
    stages = Table(
        title=title, columns=("stage", "output", "would" if planned else "took"), rows=rows, notes=(note,), left=(0, 1)
    )
    return [stages, *tabulate_checks(summary.checks)]


def tabulate_bundle(bundle: Bundle) -> list[Table]:
    """The archive's files, and where its budgets are from."""
    rows = tuple((name, sha256[:16]) for name, sha256 in bundle.files.items())
    notes = (
        f"Budgets: {bundle.judged_by}. sha256 of the archive: {bundle.sha256}.",
        f"There: unpack it, and run `python {bundle.name}/agent.py verify`.",
    )
    return [Table(title=bundle.path, columns=("file", "sha256"), rows=rows, notes=notes, left=(0, 1))]


def tabulate_artifacts(report: ArtifactReport) -> list[Table]:
    """Every artifact, and why it does not hold if it does not."""
    rows = tuple((one.file, one.stage, one.sha256[:16], one.state, one.detail) for one in report.findings)
    failed = sum(one.state != "holds" for one in report.findings)
    notes = (
        f"{len(rows) - failed} of {len(rows)} files are what was made."
        + ("" if report.manifest else " There is no manifest.json: `mbdeploy run` writes one."),
        *(filter(None, [report.detail])),
    )
    columns = ("file", "stage", "sha256", "state", "why")
    return [Table(title=report.folder, columns=columns, rows=rows, notes=notes, left=(0, 1, 2, 3, 4))]


def _name_end(stage: StageRun, planned: bool) -> str:
    if stage.fresh:
        return "fresh"
    return "run" if planned else f"{stage.seconds:.1f} s"
