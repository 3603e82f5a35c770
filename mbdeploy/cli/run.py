"""``mbdeploy run CARD``: every stage in order, skipping what is fresh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import making, options, places
from mbdeploy.cli.endings import judge_checks
from mbdeploy.cli.screen import Screen

STAGES = ("export", "simplify", "quantize", "verify", "bench", "report")


@click.command("run")
@click.argument("card", metavar="CARD")
@options.output_folder
@click.option("--force", type=click.Choice(STAGES), multiple=True, help="Do this stage again. Repeatable.")
@click.option("--until", type=click.Choice(STAGES), show_default="report", help="The last stage to do.")
@click.option("--dry-run", is_flag=True, default=None, help="Only say what would be done.")
@making.exporting
@making.quantizing
@options.providers
@options.allow_fallback
@options.require_placement
@options.threads
@options.min_duration
@options.seed
@options.trust
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, card: str, output: Path | None, **keywords: Any) -> int:
    """Take a model card to a verified INT8 file, with every stage.

    The stages are export, simplify, quantize, verify, bench and report. What is
    fresh (same inputs, options and tools) is not done again.
    """
    from mbdeploy.cli.summary import tabulate_run
    from mbdeploy.pipeline import run

    output = output or places.name_folder(card)
    with screen.progress() as on_progress:
        summary = run(
            card, output=output, on_stage=screen.note_stage, on_progress=on_progress, **options.keep_given(keywords)
        )
    screen.show(tabulate_run(summary, planned=bool(keywords["dry_run"])), summary)
    return judge_checks(summary.checks)
