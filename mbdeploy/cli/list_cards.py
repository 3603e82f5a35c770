"""``mbdeploy list``: the model cards that are here."""

from __future__ import annotations

import click

from mbdeploy.cli import options
from mbdeploy.cli.screen import Screen


@click.command("list")
@options.table_format
@options.words
@click.pass_obj
def command(screen: Screen, /) -> None:
    """List the model cards that are here."""
    from mbdeploy.card import list_cards
    from mbdeploy.cli.cards import describe_cards, tabulate_cards

    cards = list_cards()
    screen.show(tabulate_cards(cards), describe_cards(cards))
