"""``mbdeploy audit``: whether an INT8 file of any tool gives the same answers on every CPU, and its repair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import options, places
from mbdeploy.cli.screen import Screen
from mbdeploy.errors import EXIT_GATE_FAILED, EXIT_OK


@click.command("audit")
@click.argument("model", metavar="MODEL.onnx|CARD")
@click.option("-o", "--output", type=Path, help="The repaired file to write, with --repair.")
@click.option("--repair", is_flag=True, default=None, help="Write a copy that gives the same answers everywhere.")
@click.option(
    "--against", type=Path, metavar="FILE", help="The float ONNX file it was made from: weights to repair with."
)
@click.option("--data", type=options.DATA, help="Images: what does clip on them, and how far outputs are off.")
@click.option("--num-samples", type=click.IntRange(1, 10_000_000), show_default="16", help="How many of them.")
@options.preprocess
@options.providers
@options.threads
@options.seed
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, model: str, output: Path | None, **keywords: Any) -> int:
    """Look into an INT8 file of any tool, Q/DQ or QOperator, for what makes it
    answer otherwise on another CPU, or wrongly; and repair it.

    No calibration images are needed. Exit code 1 says that an error was found: in
    the repaired file, with --repair.
    """
    from mbdeploy.stages.audit import audit
    from mbdeploy.stages.audit_tables import tabulate_audit

    path = places.find_model(model, "int8.onnx")
    if keywords["repair"] and output is None:
        output = places.name_output(path, "repaired")
    with screen.progress() as on_progress:
        report = audit(path, output=output, on_progress=on_progress, **options.keep_given(keywords))
    if output is not None:
        screen.note_written(output)
    screen.show(tabulate_audit(report), report)
    return EXIT_OK if report.passed else EXIT_GATE_FAILED
