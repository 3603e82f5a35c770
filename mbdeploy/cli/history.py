"""``mbdeploy history``: results kept over time, when somebody says so; shown as lines, and never a gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import options, places
from mbdeploy.cli.screen import Screen

_folder = click.option("--folder", type=Path, show_default="history", help="Where the history lies.")


@click.group("history", no_args_is_help=False)
@options.words
def command() -> None:
    """Keep results over time, and show how a model's numbers moved.

    Nothing is kept unless `add` is told to. It is never a gate: `mbdeploy check` is.
    """


@command.command("add")
@click.argument("outs", metavar="OUT|CARD|RESULT.json...", nargs=-1, required=True)
@_folder
@click.option("--model", metavar="NAME", help="What the numbers are of.  [default: the output folder's name]")
@options.table_format
@options.words
@click.pass_obj
def add(screen: Screen, /, outs: tuple[str, ...], **keywords: Any) -> None:
    """Remember what was measured: the results in output folders, a sweep's
    folder, or a file that bench, verify, evaluate or sweep saved.

    Each result becomes one Parquet file, named by the sha256 of its bytes, and is
    never written again: to add it twice changes nothing.
    """
    from mbdeploy.remembering.recording import remember
    from mbdeploy.remembering.tables import tabulate_recording

    done = remember([places.find_result(out) for out in outs], **options.keep_given(keywords))
    screen.show(tabulate_recording(done), done)


@command.command("show")
@click.argument("model", required=False)
@_folder
@click.option("--html", type=Path, metavar="FILE", help="Write a page with charts there.")
@options.table_format
@options.words
@click.pass_obj
def show(screen: Screen, /, model: str | None, html: Path | None, **keywords: Any) -> None:
    """Show runs over time, of MODEL or of all, with the change against the run
    before.

    Numbers are in one line only if model, file, provider, threads and the class
    of the host (CPU, cores, runtime) are the same. The exit code says nothing
    about the numbers.
    """
    from mbdeploy.artifact import write_bytes
    from mbdeploy.remembering.history import history
    from mbdeploy.remembering.tables import tabulate_history

    with screen.progress() as on_progress:
        found = history(model, on_progress=on_progress, **options.keep_given(keywords))
    if html is not None:
        from mbdeploy.remembering.page import render_page

        write_bytes(html, render_page(found).encode("utf-8", "backslashreplace") + b"\n")
        screen.note_written(html)
    screen.show(tabulate_history(found), found)
