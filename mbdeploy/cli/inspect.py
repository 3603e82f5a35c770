"""``mbdeploy inspect``: what a network costs, layer by layer, and where it will hurt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import making, options, places
from mbdeploy.cli.screen import Screen, has_color

FORMATS = ("table", "md", "json", "csv", "html")


def _find_exported(card: str) -> str | Path:
    files = (places.name_folder(card) / name for name in ("simplified.onnx", "fp32.onnx"))
    return next((file for file in files if file.is_file()), card)


@click.command("inspect")
@click.argument("model", metavar="MODEL.onnx|CARD")
@click.option("--as-standard-conv", is_flag=True, default=None, help="Compare with standard convolutions.")
@click.option("--sweep", is_flag=True, default=None, help="A card's network over width and resolution.")
@click.option("--measure", is_flag=True, default=None, help="Measure this CPU; bound every layer's time by it.")
@click.option("--ignore", metavar="ID", multiple=True, help="Leave a rule out, such as MB101. Repeatable.")
@making.input_shape
@click.option("-o", "--output", type=Path, metavar="FILE", help="The file to write.  [default: standard output]")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), show_default="table", default="table", help="How to show it."
)
@options.limits
@options.words
@click.pass_obj
def command(screen: Screen, /, model: str, output: Path | None, form: str, **keywords: Any) -> None:
    """Count multiply-adds, parameters, bytes and memory of a network, layer by
    layer, and look for what will hurt on a device.

    A card is looked for in out/CARD; if it was never exported, it is traced to
    a temporary file, which needs torch.
    """
    from mbdeploy.artifact import write_bytes
    from mbdeploy.stages.inspect import inspect, render_inspection

    card = model if places.is_card(model) else None
    source = model if card is None else _find_exported(card)
    with screen.progress() as on_progress:
        report = inspect(source, card=card, on_progress=on_progress, **options.keep_given(keywords))
    text = render_inspection(report, format=form, color=output is None and has_color())
    if output is None:
        screen.write(text)
    else:
        write_bytes(output, text.encode("utf-8", "backslashreplace") + b"\n")
        screen.note_written(output)
