"""``mbdeploy evaluate``: accuracy on labelled images, and what changed against another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import options, places
from mbdeploy.cli.endings import judge_checks
from mbdeploy.cli.screen import Screen


@click.command("evaluate")
@click.argument("models", metavar="MODEL.onnx...|CARD", nargs=-1, required=True)
@options.result_file
@click.option("--against", type=Path, metavar="FILE", help="The model to compare with, usually the FP32 one.")
@click.option(
    "--data",
    type=options.DATA,
    required=True,
    help="Labelled images: a folder a class, CSV, .tar, .parquet.",
)
@click.option("--limit", type=click.IntRange(1, 10_000_000), help="Use so many of them.  [default: all]")
@click.option(
    "--background/--no-background",
    default=None,
    help="Whether class 0 is a background class.  [default: as the file says]",
)
@options.provider
@options.sessions
@options.allow_fallback
@options.require_placement
@options.preprocess
@options.threads
@options.seed
@options.sharing
@click.option(
    "--shard-size",
    type=click.IntRange(32, 1_000_000),
    help="Images a part of shared work, a multiple of 32.  [default: by their number]",
)
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, models: tuple[str, ...], output: Path | None, **keywords: Any) -> int:
    """Measure the accuracy of classifiers on labelled images.

    Top-1 and top-5 with n and intervals; with several models, the paired
    difference to the first one and the number of changed predictions. For a card
    the result is saved where `mbdeploy report` finds it.

    With --workers or --cluster the images are shared: the result is the same to the
    last bit, and a run that was stopped goes on where it was.
    """
    from mbdeploy.stages import figures
    from mbdeploy.stages.evaluate import evaluate, plan
    from mbdeploy.stages.facts import derive_accuracy

    paths, given = places.find_models(models), options.keep_given(keywords)
    with screen.progress() as on_progress:
        result = evaluate(paths, **given, on_progress=on_progress, on_link=screen.note_link)
    planned = options.keep_known(plan, given)
    screen.save(output or places.name_result(models, "evaluation"), result, lambda: plan(paths, **planned))
    tables = [*figures.tabulate_accuracy(derive_accuracy(result)), *figures.tabulate_checks(result.checks)]
    screen.show(tables, result)
    return judge_checks(result.checks)
