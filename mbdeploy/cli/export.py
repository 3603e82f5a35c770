"""``mbdeploy export``: a network becomes an ONNX file, with golden inputs and outputs beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import making, options, places
from mbdeploy.cli.screen import Screen


@click.command("export")
@click.argument("source", metavar="CARD|MODULE:FACTORY|FILE.pt2")
@options.output_file
@making.exporting
@making.weights
@making.input_shape
@making.golden
@options.preprocess
@options.trust
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, source: str, output: Path | None, **keywords: Any) -> None:
    """Export a network to ONNX and check it against torch.

    The source is a model card (see `mbdeploy list`), a function of yours that
    returns a torch module, or a program saved by torch.export; the last two run
    only with --trust. The batch is dynamic, and ONNX Runtime has to agree with
    torch on real images before the file gets its name.
    """
    from mbdeploy.stages import sections
    from mbdeploy.stages.export import export

    output = output or places.name_folder(source) / "fp32.onnx"
    with screen.progress() as on_progress:
        record = export(source, output=output, on_progress=on_progress, **options.keep_given(keywords))
    screen.note_written(output)
    screen.show(sections.tabulate_export(record), record)
