"""``mbdeploy verify``: the same images through every variant, compared with the golden outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import options, places
from mbdeploy.cli.endings import judge_checks
from mbdeploy.cli.screen import Screen


@click.command("verify")
@click.argument("models", metavar="MODEL.onnx...|CARD", nargs=-1, required=True)
@options.result_file
@click.option(
    "--golden", type=Path, metavar="FILE", help="golden.npz to compare with.  [default: the one beside the model]"
)
@click.option(
    "--reference", type=Path, metavar="FILE", help="An FP32 ONNX file to compare with instead (needs --data)."
)
@click.option("--data", metavar="DATA", help="Images for --reference.")
@click.option("--num-samples", type=click.IntRange(1, 10_000_000), show_default="64", help="How many of them.")
@options.preprocess
@options.providers
@options.sessions
@options.allow_fallback
@options.require_placement
@options.threads
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, models: tuple[str, ...], output: Path | None, **keywords: Any) -> int:
    """Compare ONNX files with golden outputs.

    Each INT8 file runs as executed and exact (Q/DQ in float), so that saturation is
    a number of its own. Exit code 1 says that a gate failed, 3 that a provider is not here.
    """
    from mbdeploy.stages import figures
    from mbdeploy.stages.facts import derive_parity
    from mbdeploy.stages.verify import verify

    given = {**places.read_budgets(models), **options.keep_given(keywords)}
    with screen.progress() as on_progress:
        result = verify(places.find_models(models), on_progress=on_progress, **given)
    screen.save(output, result)
    tables = [*figures.tabulate_parity(derive_parity(result)), *figures.tabulate_checks(result.checks)]
    screen.show(tables, result)
    return judge_checks(result.checks)
