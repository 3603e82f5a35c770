"""``mbdeploy bundle OUT``: one archive that a board or a CI runner checks without mbdeploy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import options, places
from mbdeploy.cli.screen import Screen


@click.command("bundle")
@click.argument("folder", metavar="OUT|CARD")
@click.option("-o", "--output", type=Path, help="The .tar.gz or .zip to write.  [default: OUT/NAME.tar.gz]")
@click.option("--all", "all_variants", is_flag=True, default=None, help="Pack the FP32 and simplified files too.")
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, folder: str, **keywords: Any) -> None:
    """Pack the INT8 file with all that a board needs to check it.

    The archive holds the model, golden inputs and outputs, budgets, the sha256 of
    every file, what was installed here (CycloneDX), and the agent: unpacked, `python
    agent.py verify` needs only numpy and onnxruntime, and ends with the exit codes of
    `mbdeploy verify`. The same inputs give the same bytes. `mbdeploy verify
    FILE.tar.gz` checks it from here.
    """
    from mbdeploy.cli.summary import tabulate_bundle
    from mbdeploy.stages.bundle import bundle

    result = bundle(places.find_folder(folder), **options.keep_given(keywords))
    screen.note_written(Path(result.path))
    screen.show(tabulate_bundle(result), result)
