"""``mbdeploy bench``: models take turns on the same inputs; the first one is the baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import options, places
from mbdeploy.cli.bench_modes import choose_mode, fit
from mbdeploy.cli.endings import judge_checks
from mbdeploy.cli.screen import Screen
from mbdeploy.results import SCHEMA_VERSION


@click.command("bench")
@click.argument("models", metavar="MODEL.onnx...|CARD", nargs=-1, required=True)
@options.result_file
@options.providers
@options.sessions
@options.allow_fallback
@options.require_placement
@options.sweeps
@options.warmup
@options.min_duration
@options.max_duration
@click.option("--min-pairs", type=click.IntRange(1, 1_000_000), show_default="30", help="Fewest rounds to time.")
@options.processes
@options.cool_down
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1),
    show_default="0.05",
    help="How much slower than the baseline still passes.",
)
@click.option(
    "--inputs",
    type=options.DATA,
    help="Images: golden.npz or any data.  [default: the golden.npz beside]",
)
@options.preprocess
@options.seed
@click.option(
    "--instructions",
    is_flag=True,
    default=None,
    help="Count instructions on an emulated CPU (--provider arm, or cpu@qemu:CPU) in place of time.",
)
@click.option("--tune", is_flag=True, default=None, help="Find the session options that make it fastest here.")
@click.option(
    "--explain", is_flag=True, default=None, help="Where the time, or the difference of two files, comes from."
)
@click.option(
    "--scenario",
    type=click.Choice(["single-stream", "multi-stream", "server", "offline"]),
    help="A scenario of MLPerf Inference, by its LoadGen (`pip install mlcommons-loadgen`). Its logs are kept in "
    "FILE.loadgen/ beside --output, else in MODEL.SCENARIO.loadgen/ beside the first model.",
)
@click.option("--preset", type=click.Choice(["rapid", "quick", "normal"]), help="How long it is.  [default: quick]")
@click.option("--target-qps", type=click.FloatRange(0, min_open=True), help="Queries a second for --scenario server.")
@click.option("--target-latency", type=click.FloatRange(0, min_open=True), help="Its bound of the p99, in ms.")
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, models: tuple[str, ...], output: Path | None, **keywords: Any) -> int:
    """Time ONNX files against the first of them.

    They take turns on the same inputs, in several fresh processes, with an A/A
    control; load time, first inference and peak memory are measured apart. Exit
    code 1 says that a model is slower than the first one, 4 that this machine was
    too noisy to tell.
    """
    from mbdeploy.stages import bench_sweep
    from mbdeploy.stages.bench import bench, plan
    from mbdeploy.stages.facts import derive_latency

    paths = places.find_models(models, ("simplified.onnx", "int8.onnx"))
    flags = {name: bool(keywords.pop(name)) for name in ("instructions", "tune", "explain")}
    given = options.keep_given(keywords)
    if mode := choose_mode({**flags, "scenario": "scenario" in given}):
        return mode(screen, paths, output, given)
    fitted = fit(bench, "bench without --scenario", given)
    with screen.progress() as on_progress:
        runs = bench(paths, on_progress=on_progress, **fitted)
    result = {"schema_version": SCHEMA_VERSION, "runs": runs}
    screen.save(output, result, lambda: plan(paths, **fitted))
    facts = [derive_latency(run) for run in runs]
    if output and (page := bench_sweep.write_page(output, facts)):
        screen.note_written(page)
    screen.show(bench_sweep.tabulate_runs(facts), result)
    return judge_checks(check for fact in facts for check in fact.checks)
