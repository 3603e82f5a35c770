"""``mbdeploy report OUT``: everything measured so far, derived again from the saved files."""

from __future__ import annotations

import click

from mbdeploy.cli import options, places
from mbdeploy.cli.screen import Screen, has_color


@click.command("report")
@click.argument("out", metavar="OUT|CARD")
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, out: str) -> None:
    """Report everything that an output folder's files say.

    Sizes, what each stage did, parity, latency and accuracy, derived again from
    the raw results each time.
    """
    from mbdeploy.stages.report import report

    screen.write(report(places.find_folder(out), format=screen.format, color=has_color()))
