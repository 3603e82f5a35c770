"""``mbdeploy verify-artifacts OUT``: whether every file of a folder is what was made, and who vouches for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mbdeploy.cli import options, places
from mbdeploy.cli.screen import Screen
from mbdeploy.errors import EXIT_GATE_FAILED, EXIT_OK


@click.command("verify-artifacts")
@click.argument("folder", metavar="OUT|CARD")
@click.option("--sign", type=Path, metavar="KEY", help="Sign the manifest of a folder that holds, with this PEM key.")
@click.option("--verify-key", type=Path, metavar="PUB", help="Ask for a good signature by this public PEM key.")
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, folder: str, **keywords: Any) -> int:
    """Hash every artifact again and hold it against what vouches for it.

    Sidecars say what each file is and what it was made from, manifest.json says it
    of the whole folder. A file that is missing, changed, orphaned (nobody vouches for
    it) or stale (made from a file that has changed since) ends in exit code 1.
    Signing works offline, with a plain key pair: pip install 'mbdeploy[signing]'.
    """
    from mbdeploy.cli.summary import tabulate_artifacts
    from mbdeploy.provenance.checking import verify_artifacts

    report = verify_artifacts(places.find_folder(folder), **options.keep_given(keywords))
    screen.show(tabulate_artifacts(report), report)
    return EXIT_OK if report.holds else EXIT_GATE_FAILED
