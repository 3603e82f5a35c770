"""``mbdeploy quantize``: a float file and calibration images in, one INT8 file out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import making, options, places
from mbdeploy.cli.endings import judge_answer
from mbdeploy.cli.screen import Screen


@click.command("quantize")
@click.argument("model", metavar="MODEL.onnx|CARD")
@options.output_file
@making.quantizing
@click.option(
    "--ranges",
    type=Path,
    metavar="FILE",
    help="Activation ranges from `mbdeploy calibrate`, or ONNX Runtime's calibration cache.",
)
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp16"]),
    show_default="int8",
    help="fp16 needs no images: half the size, and fast where float16 is.",
)
@options.workers
@making.goals
@options.preprocess
@options.threads
@options.seed
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, model: str, output: Path | None, precision: str | None, **keywords: Any) -> int | None:
    """Quantize a float ONNX file to INT8 with calibration images.

    The result holds Q/DQ pairs and runs wherever ONNX Runtime does. A card brings
    its own recipe and calibration images; for a file, say which images with
    --calibration.

    With --max-drop, --min-sqnr or --target-ratio, layers that do not deserve INT8
    stay in float: what each of them costs in accuracy and time is measured here, and
    the best mix that reaches the goals is written. It ends with a verdict, for which
    the file is timed against optimised FP32 as `mbdeploy bench` does: ship (exit code
    0), don't ship (1: no file is written), or inconclusive (4). NAME.mix.json and
    NAME.mix.html hold all that was measured.
    """
    from mbdeploy.mixing.verdict import judge_search
    from mbdeploy.sharing import quantize_shared
    from mbdeploy.stages import mix_tables, sections
    from mbdeploy.stages.quantize import quantize
    from mbdeploy.tradeoff import name_report, quantize_within

    path = places.find_model(model, "simplified.onnx")
    output = output or places.name_output(path, precision or "int8")
    if precision == "fp16":
        _halve(screen, path, output, keywords)
        return None
    given = places.read_quantization(model, options.keep_given(keywords))
    if "calibration" not in given and "ranges" not in given:
        raise click.UsageError("a model file needs --calibration: a folder, manifest, CSV or .npz of images")
    shared = given.keys() & {"workers", "cluster"}
    if shared and given.keys() & making.GOALS:
        raise click.UsageError(f"--{shared.pop()} is not for a search: leave it out, or the goal")
    if not given.keys() & making.GOALS:
        if useless := given.keys() & making.SEARCHING:
            raise click.UsageError(f"--{useless.pop().replace('_', '-')} is for a search: give a goal, too")
        with screen.progress() as on_progress:
            call = quantize_shared if shared else quantize
            record = call(path, output=output, on_progress=on_progress, **given)
        screen.note_written(output)
        screen.show(sections.tabulate_quantize(record), record)
        return None
    with screen.progress() as on_progress:
        report = quantize_within(path, output=output, on_progress=on_progress, **given)
    for written in (*([output] if report.final else []), name_report(output), name_report(output).with_suffix(".html")):
        screen.note_written(written)
    if report.final is None and output.exists():
        screen.note(f"left {output} as it was: an earlier file, which this search did not make")
    screen.show(mix_tables.tabulate_search(report), report)
    return judge_answer(judge_search(report).answer)


def _halve(screen: Screen, path: Path, output: Path, keywords: dict[str, Any]) -> None:
    from mbdeploy.stages import sections
    from mbdeploy.stages.halve import halve

    if useless := options.keep_given(keywords):
        raise click.UsageError(f"--{next(iter(useless)).replace('_', '-')} is for int8: float16 needs none of that")
    with screen.progress() as on_progress:
        record = halve(path, output=output, on_progress=on_progress)
    screen.note_written(output)
    screen.show(sections.tabulate_halve(record), record)
