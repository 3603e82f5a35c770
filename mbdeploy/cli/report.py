"""``mbdeploy report OUT``: everything measured so far, derived again from the saved files."""

from __future__ import annotations

from pathlib import Path

import click

from mbdeploy.cli import options, places
from mbdeploy.cli.screen import Screen, has_color

FORMATS = ("table", "md", "json", "html")


@click.command("report")
@click.argument("outs", metavar="OUT|CARD...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=Path,
    metavar="FILE",
    help="The file to write.  [default: standard output; a page: OUT/report.html]",
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to show it."
)
@options.limits
@options.words
@click.pass_obj
def command(screen: Screen, /, outs: tuple[str, ...], output: Path | None, form: str) -> None:
    """Report everything that output folders' files say.

    Sizes, what each stage did, parity, latency and accuracy, derived again from
    the raw results each time. Several folders are shown side by side first. With
    --format html it is one page that needs no network and no other file.
    """
    from mbdeploy.artifact import write_bytes
    from mbdeploy.stages.report import report

    folders = [places.find_folder(out) for out in outs]
    text = report(*folders, format=form, color=output is None and has_color())
    if form == "html" and output is None:
        output = places.name_page(folders)
    if output is None:
        screen.write(text)
    else:
        write_bytes(output, text.encode("utf-8", "backslashreplace") + b"\n")
        screen.note_written(output)
