"""``mbdeploy demo``: run a card with real weights, then show what FP32 and INT8 see in six photographs."""

from __future__ import annotations

from pathlib import Path

import click

from mbdeploy.cli import options, places
from mbdeploy.cli.endings import judge_checks
from mbdeploy.cli.screen import Screen
from mbdeploy.results import SCHEMA_VERSION


@click.command("demo")
@click.argument("card", metavar="[CARD]", default="efficientnet_lite0")
@options.output_folder
@options.threads
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, card: str, output: Path | None, threads: int | None) -> int:
    """Run a card, and show what FP32 and INT8 see in six photographs.

    Without a name the card is efficientnet_lite0, whose weights are trained. The
    measurements stand below the photographs.
    """
    from mbdeploy.pipeline import run
    from mbdeploy.stages.demo import classify_photos, tabulate_photos
    from mbdeploy.stages.report import read_report, tabulate_side_by_side

    given = options.keep_given({"threads": threads})
    folder = output or places.name_folder(card)
    with screen.progress() as on_progress:
        summary = run(card, output=folder, on_stage=screen.note_stage, on_progress=on_progress, **given)
        models = (folder / "simplified.onnx", folder / "int8.onnx")
        shown = classify_photos(models, on_progress=on_progress, **given)
    tables = [tabulate_photos(shown, ("FP32", "INT8")), tabulate_side_by_side(read_report(folder))]
    screen.show(tables, {"schema_version": SCHEMA_VERSION, "photos": shown, "checks": summary.checks})
    return judge_checks(summary.checks)
