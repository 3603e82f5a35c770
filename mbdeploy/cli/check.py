"""``mbdeploy check``: cards against their budgets, and against another version, as continuous integration wants it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import options
from mbdeploy.cli.screen import Screen


@click.command("check")
@click.argument("words", metavar="[CARD|FOLDER...]", nargs=-1)
@click.option("--all", "all_cards", is_flag=True, help="Every card that ships with mbdeploy.")
@click.option("-o", "--output", type=Path, show_default="out", help="The folder that holds a folder for each card.")
@options.providers
@options.allow_fallback
@options.require_placement
@click.option("--baseline", type=Path, metavar="REF_OUT", help="Output folder of another version, to be run now.")
@click.option(
    "--tolerance", type=click.FloatRange(0, 1), show_default="0.05", help="How much slower than a bound still passes."
)
@click.option("--ignore", metavar="ID", multiple=True, help="Leave a rule out, such as MB301. Repeatable.")
@options.threads
@options.min_duration
@options.seed
@options.trust
@options.sharing
@click.option("--junit", type=Path, metavar="FILE", help="Write JUnit XML there.")
@click.option("--sarif", type=Path, metavar="FILE", help="Write SARIF 2.1.0 there.")
@click.option("--json", "json_file", type=Path, metavar="FILE", help="Write everything as JSON there.")
@click.option("--md", type=Path, metavar="FILE", help="Write Markdown there, for a pull request's comment.")
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(
    screen: Screen,
    /,
    words: tuple[str, ...],
    all_cards: bool,
    junit: Path | None,
    sarif: Path | None,
    json_file: Path | None,
    md: Path | None,
    **keywords: Any,
) -> int:
    """Take cards through the pipeline and judge them by their budgets.

    Without CARD these are the cards in models/ here. What is fresh is not done
    again. With --baseline, both versions run now on the same images. The exit code
    is the worst of all rows, in the order 5, 2, 3, 1, 4, 0. In a GitHub job the
    result is added to the job's summary.

    With --workers or --cluster cards are shared, and times are taken after all else,
    each alone on its host or board. A check that was stopped goes on where it was;
    one that ended never lends its times to the next.
    """
    from mbdeploy.gating.cards import find_cards
    from mbdeploy.gating.check import check
    from mbdeploy.gating.files import append_text, write_files
    from mbdeploy.gating.tables import render_markdown, tabulate_report

    cards = find_cards(words, all_cards=all_cards)
    with screen.progress() as on_progress:
        given = {**options.keep_given(keywords), "on_progress": on_progress, "on_link": screen.note_link}
        report = check(cards, on_stage=screen.note_stage, **given)
    for path in write_files(report, junit=junit, sarif=sarif, json=json_file, md=md):
        screen.note_written(path)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        append_text(Path(summary), render_markdown(report))
    screen.show(tabulate_report(report), report)
    return report.exit_code
