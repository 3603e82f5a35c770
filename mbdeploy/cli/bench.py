"""``mbdeploy bench``: models take turns on the same inputs; the first one is the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import options, places
from mbdeploy.cli.endings import judge_checks
from mbdeploy.cli.screen import Screen
from mbdeploy.errors import EXIT_OK, UsageError
from mbdeploy.results import SCHEMA_VERSION


@click.command("bench")
@click.argument("models", metavar="MODEL.onnx...|CARD", nargs=-1, required=True)
@options.result_file
@options.providers
@options.sessions
@options.allow_fallback
@options.require_placement
@options.threads
@click.option("--batch-size", type=click.IntRange(1, 65536), show_default="1", help="Images an inference.")
@options.warmup
@options.min_duration
@click.option("--min-pairs", type=click.IntRange(1, 1_000_000), show_default="30", help="Fewest rounds to time.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    show_default="0.05",
    help="How much slower than the baseline still passes.",
)
@click.option(
    "--inputs", type=Path, metavar="FILE", help="Images: golden.npz or any data.  [default: the golden.npz beside]"
)
@options.preprocess
@options.seed
@click.option(
    "--instructions",
    is_flag=True,
    default=None,
    help="Count instructions on an emulated CPU (--provider arm, or cpu@qemu:CPU) in place of time.",
)
@options.table_format
@options.words
@click.pass_obj
def command(
    screen: Screen, /, models: tuple[str, ...], output: Path | None, instructions: bool | None, **keywords: Any
) -> int:
    """Time ONNX files against the first of them.

    They take turns on the same inputs, with an A/A control; load time, first
    inference and peak memory are measured apart. Exit code 1 says that a model is
    slower than the first one, 4 that this machine was too noisy to tell.
    """
    from mbdeploy.stages import figures
    from mbdeploy.stages.bench import bench
    from mbdeploy.stages.facts import derive_latency

    paths = places.find_models(models, ("simplified.onnx", "int8.onnx"))
    if instructions:
        return _count(screen, paths, output, options.keep_given(keywords))
    with screen.progress() as on_progress:
        runs = bench(paths, on_progress=on_progress, **options.keep_given(keywords))
    result = {"schema_version": SCHEMA_VERSION, "runs": runs}
    screen.save(output, result)
    facts = [derive_latency(run) for run in runs]
    checks = [check for fact in facts for check in fact.checks]
    tables = [table for fact in facts for table in figures.tabulate_latency(fact)]
    screen.show([*tables, *figures.tabulate_checks(checks)], result)
    return judge_checks(checks)


def _count(screen: Screen, paths: Sequence[Path], output: Path | None, given: dict[str, Any]) -> int:
    from mbdeploy.stages.instructions import count, tabulate_instructions

    idle = set(given) - {"providers", "batch_size", "seed", "provider_options", "session_config"}
    if idle:
        word = min(idle).replace("_", "-")
        raise UsageError(
            where="--instructions", expected="options that a count has", found=f"--{word}", todo="leave it out"
        )
    with screen.progress() as on_progress:
        runs = count(paths, on_progress=on_progress, **given)
    result = {"schema_version": SCHEMA_VERSION, "runs": runs}
    screen.save(output, result)
    screen.show(tabulate_instructions(runs), result)
    return EXIT_OK
