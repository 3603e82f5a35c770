"""``mbdeploy calibrate``: observe activations once, merge shards, and say whether the images were enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import making, options, places
from mbdeploy.cli.screen import Screen


@click.command("calibrate")
@click.argument("model", metavar="MODEL.onnx|CARD")
@click.option("-o", "--output", type=Path, metavar="FOLDER", help="Where to write.  [default: beside the model]")
@making.calibrating
@making.own_method
@click.option(
    "--shards",
    type=click.IntRange(1, 100_000),
    help="Divide the images into so many.  [default: one for 32 images, 16 at most]",
)
@click.option("--shard", type=click.IntRange(1, 100_000), help="Do only this one, and do not merge.")
@options.workers
@options.preprocess
@options.threads
@options.seed
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, model: str, output: Path | None, **keywords: Any) -> None:
    """Observe the activations of a float ONNX file on calibration images.

    Says whether the images were enough, and which of them widen ranges most. Writes
    calibration.npz and ranges.json (ONNX Runtime's calibration cache), either for
    `mbdeploy quantize --ranges`. A run that was stopped goes on where it was; shards
    made on other machines merge to the same file.
    """
    from mbdeploy.stages import sections
    from mbdeploy.stages.calibrate import calibrate

    path = places.find_model(model, "simplified.onnx")
    output = output or path.with_suffix(".calibration")
    asked = places.read_quantization(model, options.keep_given(keywords))
    # Every layer is observed, whatever stays in float later, and whichever recipe takes the ranges.
    given = {name: value for name, value in asked.items() if name in keywords and value is not None}
    if "calibration" not in given:
        raise click.UsageError("a model file needs --calibration: a folder, manifest, CSV or .npz of images")
    with screen.progress() as on_progress:
        record = calibrate(path, output=output, on_progress=on_progress, **given)
    for file in record.files:
        screen.note_written(Path(file))
    screen.show(sections.tabulate_calibrate(record), record)
