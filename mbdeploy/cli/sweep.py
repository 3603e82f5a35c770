"""``mbdeploy sweep``: a family of networks, recipes, providers and threads at once."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import making, options
from mbdeploy.cli.screen import Screen


@click.command("sweep")
@click.argument("cards", metavar="CARD...", nargs=-1, required=True)
@click.option("-o", "--output", type=Path, metavar="FOLDER", help="Where files go.  [default: out/sweep]")
@making.families
@options.providers
@options.many_threads
@click.option("--data", type=options.DATA, help="Labelled images, for accuracy where weights are trained.")
@click.option("--limit", type=click.IntRange(1, 10_000_000), help="Use so many of them.  [default: all]")
@options.min_duration
@options.processes
@click.option("--dry-run", is_flag=True, default=None, help="Only show the plan.")
@options.sharing
@options.seed
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, cards: Sequence[str], output: Path | None, **keywords: Any) -> None:
    """Build and time every combination, and show which are worth having.

    The plan comes first, with the time that earlier runs let expect. What was built
    or timed before is not done again, and a sweep that was stopped goes on. Rows on
    the front are not beaten in quality, latency, size and peak memory at once.
    FOLDER/sweep.json holds all that was measured, sweep.parquet the rows.
    """
    from mbdeploy.artifact import write_bytes
    from mbdeploy.cli.places import OUT
    from mbdeploy.stages.reporting.reading import SavedSweep
    from mbdeploy.stages.reporting.sweep_tables import tabulate_sweep
    from mbdeploy.stages.reporting.sweeps import derive_sweep
    from mbdeploy.sweeping import tables
    from mbdeploy.sweeping.sweep import sweep

    output = output or OUT / "sweep"
    with screen.progress() as on_progress:
        report = sweep(
            cards,
            output=output,
            on_plan=lambda plan: screen.note(tables.describe_plan(plan)),
            on_link=screen.note_link,
            on_progress=on_progress,
            **options.keep_given(keywords),
        )
    if keywords["dry_run"]:
        screen.show(tables.tabulate_plan(report), report)
        return
    screen.save(output / "sweep.json", report)
    if importlib.util.find_spec("pyarrow") is not None:
        write_bytes(output / "sweep.parquet", tables.write_parquet(report))
        screen.note_written(output / "sweep.parquet")
    facts = derive_sweep(SavedSweep(folder=output, report=report))
    screen.note(f"`mbdeploy report {output}` shows it again, with --format html as a page")
    screen.show(tabulate_sweep(facts), report)
