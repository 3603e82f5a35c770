"""``mbdeploy simplify``: remove what exporters leave behind, and prove that nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import making, options, places
from mbdeploy.cli.endings import judge_strictly
from mbdeploy.cli.screen import Screen
from mbdeploy.errors import EXIT_OK


@click.command("simplify")
@click.argument("model", metavar="MODEL.onnx|CARD")
@options.output_file
@click.option("--golden", type=Path, metavar="FILE", help="golden.npz of `mbdeploy export`.  [default: seeded inputs]")
@making.open_shape
@click.option(
    "--opset",
    type=click.IntRange(1, 1000),
    show_default="13",
    help="Raise a file of an older opset to this one; INT8 needs 13.",
)
@click.option("--strict", is_flag=True, default=None, help="Exit 1 if onnxsim failed or changed the outputs.")
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, model: str, output: Path | None, **keywords: Any) -> int:
    """Remove from an ONNX file what exporters leave behind.

    onnxsim runs in a limited child process, then our own rewrites to a fixed
    point. The outputs are compared before and after; if onnxsim crashes, hangs or
    changes them, the file is simplified without it, and the result says so.
    """
    from mbdeploy.stages import sections
    from mbdeploy.stages.simplify import simplify

    path = places.find_model(model, "fp32.onnx")
    output = output or places.name_output(path, "simplified")
    with screen.progress() as on_progress:
        record = simplify(path, output=output, on_progress=on_progress, **options.keep_given(keywords))
    screen.note_written(output)
    screen.show(sections.tabulate_simplify(record), record)
    return judge_strictly(record) if keywords["strict"] else EXIT_OK
