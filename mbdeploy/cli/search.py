"""``mbdeploy search``: which width, resolution and precision to deploy for a given latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import making, options
from mbdeploy.cli.endings import judge_target
from mbdeploy.cli.screen import Screen


@click.command("search")
@click.argument("cards", metavar="CARD...", nargs=-1, required=True)
@click.option("--target-latency", metavar="TIME", required=True, help="For one image: 8ms, 800us or 0.008s.")
@click.option("-o", "--output", type=Path, metavar="FOLDER", help="Where files go.  [default: out/search]")
@making.families
@options.provider
@options.threads
@click.option("--data", type=options.DATA, help="Labelled images, by which quality is judged.")
@click.option("--limit", type=click.IntRange(1, 10_000_000), help="Judge results by so many of them.  [default: all]")
@click.option(
    "--quality",
    type=click.Choice(["top1", "sqnr"]),
    show_default="top1",
    help="top1 needs --data and trained weights; sqnr compares precisions only.",
)
@click.option("--exponent", type=click.FloatRange(-10, 0, max_open=True), show_default="-0.07", help="w of the reward.")
@click.option("--hard", is_flag=True, default=None, help="MnasNet's hard reward: w is 0 below the target, -1 above it.")
@click.option("--num-trials", type=click.IntRange(1, 1000), show_default="20", help="Variants to build, at most.")
@click.option("--num-profiled", type=click.IntRange(1, 1000), show_default="6", help="Those to fit the predictor on.")
@click.option("--num-measured", type=click.IntRange(1, 1000), show_default="3", help="The best, to measure in the end.")
@click.option(
    "--num-search-samples", type=click.IntRange(1, 10_000_000), show_default="200", help="Images to judge trials by."
)
@click.option("--refine", is_flag=True, default=None, help="Look for layers of the best one to leave in float.")
@options.min_duration
@options.processes
@click.option("--dry-run", is_flag=True, default=None, help="Only show the plan.")
@options.sharing
@options.seed
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, cards: Sequence[str], output: Path | None, **keywords: Any) -> int:
    """Find the best file that runs within a latency.

    It looks at cards, widths, input sizes and precisions. A few variants are measured
    and a predictor of latency is fitted on them; others are built and judged by it;
    the best are measured, and only these are results. The reward is MnasNet's:
    quality (latency / target)^w. The exit code is 0 if the file chosen meets the
    target, 4 if it may, and 1 if none is chosen. FOLDER/search.json holds all that
    was measured.
    """
    from mbdeploy.cli.places import OUT
    from mbdeploy.searching import tables
    from mbdeploy.searching.search import search
    from mbdeploy.sweeping.tables import describe_plan

    output = output or OUT / "search"
    with screen.progress() as on_progress:
        report = search(
            cards,
            output=output,
            on_plan=lambda plan: screen.note(describe_plan(plan)),
            on_link=screen.note_link,
            on_progress=on_progress,
            **options.keep_given(keywords),
        )
    if keywords["dry_run"]:
        screen.show(tables.tabulate_plan(report), report)
        return 0
    screen.save(output / "search.json", report)
    screen.show(tables.tabulate_search(report), report)
    return judge_target(None if report.chosen is None else report.rows[report.chosen].verdict)
