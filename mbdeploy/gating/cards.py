"""Which cards a check is about, and on which line of a card's file something stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mbdeploy.card import ModelCard, list_cards, load_card
from mbdeploy.errors import UsageError

#: The folder of a project's cards.
FOLDER = Path("models")


def find_cards(words: Sequence[str], *, folder: Path = FOLDER, all_cards: bool = False) -> list[ModelCard]:
    """The cards that the words mean, each a name, a file, or a folder of cards.

    Without words they are those of ``folder``, or with ``all_cards`` every card that ships with mbdeploy.

    Raises:
        CardError: one that cannot be read. UsageError: no card, or two of one name, which would share a folder.
    """
    if all_cards and words:
        raise UsageError(where=words[0], expected="cards or --all", found="both", todo="give one of them")
    if all_cards:
        return list_cards()
    words = words or ([str(folder)] if folder.is_dir() else [])
    cards = [load_card(place) for word in words for place in _list_places(word)]
    if not cards:
        raise UsageError(
            expected=f"a card, or cards in {folder}/",
            found="none",
            todo="name a card, make one with `mbdeploy init`, or give --all for those that ship with mbdeploy",
        )
    names = [card.name for card in cards]
    for card in cards:
        if names.count(card.name) > 1:
            raise UsageError(
                where=card.path,
                expected="cards of unlike names, as each has a folder of its own",
                found=f"{card.name} more than once",
                todo="name it once, or change its name",
            )
    return cards


def find_line(text: str, table: str, key: str = "") -> int:
    """The line (from 1) of a TOML file on which ``key`` of ``[table]`` is set, else that of the table, else 1.

    It is enough for cards, which TOML's own parser has accepted: tables as headers, dotted keys or in one line.
    """
    inside, header = "", 1
    for number, line in enumerate(text.splitlines(), start=1):
        if match := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            inside = match[1]
            header = number if inside == table else header
            continue
        match = re.match(r"\s*([\w.-]+)\s*=", line)
        name = ".".join(filter(None, (inside, match[1]))) if match else ""
        if name == ".".join(filter(None, (table, key))):
            return number
        header = number if name and name == table else header
    return header


def _list_places(word: str) -> list[str | Path]:
    return sorted(Path(word).glob("*.toml")) if Path(word).is_dir() else [word]
