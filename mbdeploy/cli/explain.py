"""``mbdeploy explain CODE``: what a finding, a verdict, an exit code or an error means."""

from __future__ import annotations

import click

from mbdeploy.cli import options
from mbdeploy.cli.screen import Screen


@click.command("explain")
@click.argument("code", required=False)
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, code: str | None) -> None:
    """Say what a code means: a finding (MB301), a verdict (REJECTED), an exit
    code (4) or an error (ModelError). Without CODE, list all of them.
    """
    from mbdeploy.gating.explain import explain, list_entries
    from mbdeploy.results import SCHEMA_VERSION
    from mbdeploy.stages.tables import Table

    entries = list(list_entries().values()) if code is None else [explain(code)]
    rows = tuple((entry.code, f"{entry.title}: {entry.text}".removeprefix(": ")) for entry in entries)
    title = "Codes" if code is None else entries[0].kind
    table = Table(title=title, columns=("code", "what it means"), rows=rows, left=(0, 1))
    screen.show([table], {"schema_version": SCHEMA_VERSION, "entries": entries} if code is None else entries[0])
