"""``mbdeploy show CARD``: one model card in full."""

from __future__ import annotations

import click

from mbdeploy.cli import options
from mbdeploy.cli.screen import Screen


@click.command("show")
@click.argument("card", metavar="CARD")
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /, card: str) -> None:
    """Show one model card in full."""
    from mbdeploy.card import load_card
    from mbdeploy.cli.cards import describe_card, tabulate_card

    loaded = load_card(card)
    screen.show(tabulate_card(loaded), describe_card(loaded))
