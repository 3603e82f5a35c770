"""``mbdeploy quantize``: a float file and calibration images in, one INT8 file out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import options, places
from mbdeploy.cli.screen import Screen


@click.command("quantize")
@click.argument("model", metavar="MODEL.onnx|CARD")
@options.output_file
@options.quantizing
@click.option(
    "--ranges",
    type=Path,
    metavar="FILE",
    help="Activation ranges from `mbdeploy calibrate`, or ONNX Runtime's calibration cache.",
)
@options.preprocess
@options.threads
@options.seed
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, model: str, output: Path | None, **keywords: Any) -> None:
    """Quantize a float ONNX file to INT8 with calibration images.

    The result holds Q/DQ pairs and runs wherever ONNX Runtime does. A card brings
    its own recipe and calibration images; for a file, say which images with
    --calibration.
    """
    from mbdeploy.stages import sections
    from mbdeploy.stages.quantize import quantize

    path = places.find_model(model, "simplified.onnx")
    output = output or places.name_output(path, "int8")
    given = {**places.read_quantization(model), **options.keep_given(keywords)}
    if "calibration" not in given and "ranges" not in given:
        raise click.UsageError("a model file needs --calibration: a folder, manifest, CSV or .npz of images")
    with screen.progress() as on_progress:
        record = quantize(path, output=output, on_progress=on_progress, **given)
    screen.note_written(output)
    screen.show(sections.tabulate_quantize(record), record)
