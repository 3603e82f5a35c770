"""``mbdeploy doctor``: what this machine, its runtimes and this installation can do."""

from __future__ import annotations

import click

from mbdeploy.cli import options
from mbdeploy.cli.screen import Screen


@click.command("doctor")
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /) -> None:
    """Show what this machine and this installation can do.

    The CPU and what its instructions mean for INT8, quotas, versions, and each
    execution provider: available, or why not.
    """
    from mbdeploy.cli.machine import describe_machine, tabulate_machine
    from mbdeploy.targets import Job, open_target, parse_provider

    answer = open_target(parse_provider("cpu")).run(Job(kind="probe"))
    screen.show(tabulate_machine(answer), describe_machine(answer))
