"""``mbdeploy init``: a card with measured budgets and a workflow, from a network of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import making, options
from mbdeploy.cli.screen import Screen
from mbdeploy.errors import UsageError

#: What makes a new card, and has no meaning for one that is there.
_MAKING = ("output", "ci", "name", "preprocess", "input_shape", "calibration", "num_calibration_samples", "recipe")


@click.command("init")
@click.argument("source", metavar="MODULE:FACTORY|MODEL.onnx|CARD")
@click.option("--update-budgets", is_flag=True, help="Measure a card's budgets again, old and new side by side.")
@click.option("-o", "--output", type=Path, help="The card to write.  [default: models/NAME.toml]")
@click.option("--out", type=Path, show_default="out", help="The folder that holds a folder for each card.")
@click.option("--ci", type=Path, show_default=".github/workflows/mbdeploy.yml", help="The workflow to write.")
@click.option("--no-ci", is_flag=True, help="Write no workflow.")
@click.option("--name", metavar="NAME", help="The card's name.  [default: the function's]")
@options.preprocess
@making.input_shape
@click.option("--calibration", type=options.DATA, show_default="photos", help="Images to calibrate with.")
@click.option(
    "--num-calibration-samples", type=click.IntRange(1, 10_000_000), show_default="128", help="How many of them."
)
@click.option("--recipe", metavar="NAME", show_default="accurate", help="The recipe to quantize with.")
@options.providers
@click.option("--with-latency", is_flag=True, default=None, help="Bound INT8 time too: it holds for this host alone.")
@options.trust
@click.option("--force", is_flag=True, default=None, help="Overwrite what is there.")
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, source: str, update_budgets: bool, no_ci: bool, **keywords: Any) -> None:
    """Write a commented card, with budgets measured now, and a workflow for CI.

    The source is a function of yours that returns a torch module, which needs
    --trust, or an ONNX file, whose preprocessing has to be said. Nothing that is
    there is overwritten without --force, which --update-budgets needs too in order
    to write.
    """
    from mbdeploy.gating.init import init
    from mbdeploy.gating.init import update_budgets as update
    from mbdeploy.gating.init_tables import tabulate_init

    given = options.keep_given(keywords)
    if update_budgets and (idle := [name for name in _MAKING if name in given]):
        raise UsageError(
            where="--update-budgets",
            expected="options that it has",
            found=f"--{idle[0].replace('_', '-')}",
            todo="leave it out, or change the card",
        )
    with screen.progress() as on_progress:
        words = {**given, "on_stage": screen.note_stage, "on_progress": on_progress}
        record = (
            update(source, **words) if update_budgets else init(source, **{**words, **({"ci": None} if no_ci else {})})
        )
    for place in record.written:
        screen.note_written(Path(place))
    screen.show(tabulate_init(record), record)
